//! What to call: system calls with constant arguments, results of earlier
//! calls and addresses of buffers, as plain data.

/// A system call of a [`Batch`], for its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(pub(super) usize);

/// A place in a buffer of a [`Batch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataRef {
    pub(super) segment: usize,
    pub(super) offset: usize,
}

impl DataRef {
    /// The place `offset` bytes further on.
    #[must_use]
    pub fn at(self, offset: usize) -> Self {
        Self {
            segment: self.segment,
            offset: self.offset + offset,
        }
    }
}

/// An argument of a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arg {
    /// A constant.
    Value(u64),
    /// What an earlier call of the batch returned.
    Result(Slot),
    /// The address that a buffer has in the target.
    Data(DataRef),
}

impl From<u64> for Arg {
    fn from(value: u64) -> Self {
        Self::Value(value)
    }
}

impl From<u32> for Arg {
    fn from(value: u32) -> Self {
        Self::Value(value.into())
    }
}

/// Sign-extended, as a C caller would pass an int.
impl From<i32> for Arg {
    fn from(value: i32) -> Self {
        Self::Value(i64::from(value).cast_unsigned())
    }
}

impl From<i64> for Arg {
    fn from(value: i64) -> Self {
        Self::Value(value.cast_unsigned())
    }
}

impl From<Slot> for Arg {
    fn from(slot: Slot) -> Self {
        Self::Result(slot)
    }
}

impl From<DataRef> for Arg {
    fn from(data: DataRef) -> Self {
        Self::Data(data)
    }
}

/// What happens when a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    /// The rest of the batch is not run.
    Stop,
    /// The next call is made all the same.
    GoOn,
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    Call {
        number: i64,
        args: [Arg; 6],
        policy: Policy,
    },
    /// Stores the low 32 bits of a result into a buffer.
    Store { value: Slot, into: DataRef },
}

/// An address in one buffer of another buffer: struct with a pointer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    pub(super) at: usize,
    pub(super) to: DataRef,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Segment {
    pub(super) bytes: Vec<u8>,
    pub(super) links: Vec<Link>,
}

/// System calls to be executed by another process, in order.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    pub(super) steps: Vec<Step>,
    pub(super) segments: Vec<Segment>,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of calls so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// A buffer with contents, aligned to 16 bytes in the target.
    pub fn data(&mut self, bytes: &[u8]) -> DataRef {
        self.segments.push(Segment {
            bytes: bytes.to_vec(),
            links: Vec::new(),
        });
        DataRef {
            segment: self.segments.len() - 1,
            offset: 0,
        }
    }

    /// A zeroed buffer for a call to write to, aligned to 16 bytes in the target.
    pub fn reserve(&mut self, len: usize) -> DataRef {
        self.data(&vec![0; len])
    }

    /// A string with its terminating NUL.
    pub fn string(&mut self, bytes: &[u8]) -> DataRef {
        let mut owned = bytes.to_vec();
        owned.push(0);
        self.data(&owned)
    }

    /// Puts the address of `to` as 8 bytes at `place`: a struct with a pointer.
    ///
    /// # Panics
    /// When `place` has no room for 8 bytes.
    pub fn link(&mut self, place: DataRef, to: DataRef) {
        let segment = &mut self.segments[place.segment];
        assert!(
            place.offset + 8 <= segment.bytes.len(),
            "a pointer beyond the end of its buffer"
        );
        segment.links.push(Link {
            at: place.offset,
            to,
        });
    }

    /// A system call that must succeed: when it fails, the rest is not run.
    ///
    /// # Panics
    /// With more than six arguments.
    pub fn call(&mut self, number: i64, args: &[Arg]) -> Slot {
        self.push(number, args, Policy::Stop)
    }

    /// A system call that may fail.
    ///
    /// # Panics
    /// With more than six arguments.
    pub fn attempt(&mut self, number: i64, args: &[Arg]) -> Slot {
        self.push(number, args, Policy::GoOn)
    }

    /// Stores the low 32 bits of a result at a place in a buffer: a struct
    /// with a descriptor that an earlier call opens.
    ///
    /// # Panics
    /// When `into` has no room for 4 bytes.
    pub fn store(&mut self, value: Slot, into: DataRef) {
        assert!(
            into.offset + 4 <= self.segments[into.segment].bytes.len(),
            "a store beyond the end of its buffer"
        );
        self.steps.push(Step::Store { value, into });
    }

    fn push(&mut self, number: i64, args: &[Arg], policy: Policy) -> Slot {
        let mut six = [Arg::Value(0); 6];
        six[..args.len()].copy_from_slice(args);
        self.steps.push(Step::Call {
            number,
            args: six,
            policy,
        });
        Slot(self.steps.len() - 1)
    }
}

//! The protocol between the init at home (the deputy) and the init where the job is:
//! a reliable, bounded exchange over a carrier that may vanish at any time.
//!
//! A pure state machine: bytes in, bytes out, no clock. What a side has said
//! it keeps in its log until the other has acknowledged it; a new carrier begins with a
//! hello that says how far each has come, and the rest is said again. So
//! nothing is lost, doubled or reordered, however often the carrier breaks.
//! Data of each stream is limited by credit: at most [`WINDOW`] bytes may be on their
//! way that the other side's program or pipe has not taken.
//!
//! A [`Link`] is also what travels when the job moves on: it can be written
//! down, and two of them can be brought together without a carrier ([`settle`]).

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Bytes of one stream that may be on their way.
pub(crate) const WINDOW: u64 = 256 << 10;
/// Most bytes of data in one item.
const MAX_DATA: usize = 32 << 10;
/// Longest message on a carrier.
const MAX_MESSAGE: usize = 64 << 10;
/// At departure a pipe is emptied into the link whatever the credit says:
/// that much above the window is accepted (the largest pipe of an
/// unprivileged user, and a terminal's queue).
const MAX_INBOX: usize = (256 << 10) + (2 << 20);
/// Signals and the like that wait for an answer; one that talks more is broken.
const MAX_EVENTS: usize = 1024;
/// Once that much is encoded, the rest of the log waits.
const TRANSMIT: usize = 64 << 10;
/// Version of this protocol, in each hello.
const VERSION: u16 = 1;

/// A flow of bytes between the two inits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stream {
    /// Typed bytes one way, the terminal's output the other way.
    Terminal,
    /// Standard input, from home.
    In,
    /// Standard output, to home.
    Out,
    /// Standard error, to home.
    Err,
}

/// What is said besides data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Control {
    /// No one reads this stream any more: its writer is to get EPIPE.
    Broken(Stream),
    /// The terminal has another size: rows, columns, pixels.
    Window([u16; 4]),
    /// Send this signal to the main program.
    Signal(i32),
    /// The shell has continued `mig exec`.
    Continue { foreground: bool },
    /// The terminal is gone: SIGHUP and SIGCONT.
    Hangup,
    /// The main program was stopped by this signal.
    Stopped(i32),
    /// It runs again.
    Continued,
    /// It has ended, after all its data: wait status word.
    Exited(i32),
}

impl Control {
    fn needs_no_repetition(self) -> bool {
        matches!(
            self,
            Control::Signal(_) | Control::Hangup | Control::Broken(_)
        )
    }

    fn supersedes(self, last: Control) -> bool {
        use Control::{Continued, Stopped, Window};
        matches!(
            (self, last),
            (Window(_), Window(_)) | (Stopped(_) | Continued, Stopped(_) | Continued)
        )
    }
}

/// What the other side did that it must not.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("a message of {0} bytes is too long")]
    TooLong(usize),
    #[error("a message cannot be decoded")]
    Malformed,
    #[error("the other side speaks version {0} of the relay")]
    Version(u16),
    #[error("the other side belongs to epoch {theirs}, which is over (ours is {ours})")]
    Stale { theirs: u64, ours: u64 },
    #[error("item {got} came instead of {expected}")]
    Order { expected: u64, got: u64 },
    #[error("item {0} was acknowledged but is not in the log")]
    Acknowledged(u64),
    #[error("more arrived than credit was given")]
    Credit,
}

/// One side of the exchange.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Link {
    /// The move after which this side came to be.
    epoch: u64,
    /// This side is where the job is: its epoch is the newest there is, and the
    /// deputy's follows.
    hosts: bool,
    /// Said and not yet acknowledged; the first has the number `acknowledged + 1`.
    log: VecDeque<Item>,
    acknowledged: u64,
    /// Number of the last item that was ever put on a carrier: it may have arrived.
    said: u64,
    /// Number of the last item of the other side that we have.
    received: u64,
    outflow: [Outflow; 4],
    inflow: [Inflow; 4],
    events: VecDeque<Control>,
    #[serde(skip)]
    wire: Option<Wire>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Outflow {
    /// Bytes ever sent.
    sent: u64,
    /// Of these, taken by the other side's program or pipe.
    consumed: u64,
    /// The end has been sent.
    ended: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Inflow {
    bytes: VecDeque<u8>,
    /// Bytes ever taken out.
    consumed: u64,
    /// The first bytes were put back: they have been counted before.
    counted: u64,
    /// Nothing follows `bytes`.
    ended: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Item {
    Data(Stream, #[serde(with = "serde_bytes")] Vec<u8>),
    End(Stream),
    Control(Control),
}

/// What exists only while there is a carrier.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Wire {
    input: Vec<u8>,
    output: Vec<u8>,
    /// The other side's hello has come: items may go.
    greeted: bool,
    /// How many items of the log have been encoded.
    cursor: usize,
    acknowledge: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Message {
    Hello {
        version: u16,
        epoch: u64,
        state: Progress,
    },
    Item {
        number: u64,
        item: Item,
    },
    Progress(Progress),
}

/// How far a side has come with what the other sends.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Progress {
    received: u64,
    consumed: [u64; 4],
}

impl Link {
    /// The side that comes to be with a job's move number `epoch`.
    pub(crate) fn new(epoch: u64) -> Link {
        Link {
            epoch,
            ..Link::default()
        }
    }

    /// The job has moved: here (`hosts`), or away from here.
    pub(crate) fn set_epoch(&mut self, epoch: u64, hosts: bool) {
        self.epoch = epoch;
        self.hosts = hosts;
    }

    /// A new carrier; what was on the way on an old one is said again.
    pub(crate) fn connect(&mut self) {
        let mut wire = Wire::default();
        let hello = Message::Hello {
            version: VERSION,
            epoch: self.epoch,
            state: self.progress(),
        };
        push(&hello, &mut wire.output);
        self.wire = Some(wire);
    }

    /// The carrier is gone.
    pub(crate) fn disconnect(&mut self) {
        self.wire = None;
    }

    /// How many bytes of this stream may be sent now.
    pub(crate) fn room(&self, stream: Stream) -> usize {
        let flow = &self.outflow[stream as usize];
        let room = WINDOW.saturating_sub(flow.sent - flow.consumed);
        usize::try_from(room).expect("at most WINDOW")
    }

    /// Sends data. Callers keep to [`Link::room`], but for what they must put away at a departure.
    pub(crate) fn send(&mut self, stream: Stream, bytes: &[u8]) {
        self.outflow[stream as usize].sent += bytes.len() as u64;
        for piece in bytes.chunks(MAX_DATA) {
            self.log.push_back(Item::Data(stream, piece.to_vec()));
        }
    }

    /// Sends the end of a stream, once.
    pub(crate) fn end(&mut self, stream: Stream) {
        if !std::mem::replace(&mut self.outflow[stream as usize].ended, true) {
            self.log.push_back(Item::End(stream));
        }
    }

    /// Says something. What repeats or supersedes something unsaid replaces it, as signals
    /// and window sizes do in the kernel: so the log stays bounded without a carrier.
    pub(crate) fn say(&mut self, control: Control) {
        let unsaid = usize::try_from(self.said.saturating_sub(self.acknowledged));
        let unsaid = unsaid.expect("in the log");
        let repeats = |item: &Item| *item == Item::Control(control);
        if control.needs_no_repetition() && self.log.iter().skip(unsaid).any(repeats) {
            return;
        }
        if self.log.len() > unsaid
            && let Some(Item::Control(last)) = self.log.back_mut()
            && control.supersedes(*last)
        {
            *last = control;
            return;
        }
        self.log.push_back(Item::Control(control));
    }

    /// Data that has arrived, oldest first.
    pub(crate) fn arrived(&mut self, stream: Stream) -> &[u8] {
        self.inflow[stream as usize].bytes.make_contiguous()
    }

    /// How much of it there is.
    pub(crate) fn waiting(&self, stream: Stream) -> usize {
        self.inflow[stream as usize].bytes.len()
    }

    /// The first `length` bytes have been taken by their reader.
    pub(crate) fn consume(&mut self, stream: Stream, length: usize) {
        if length == 0 {
            // Nothing to tell: or both sides would tell each other so for ever.
            return;
        }
        let flow = &mut self.inflow[stream as usize];
        flow.bytes.drain(..length);
        let counted = flow.counted.min(length as u64);
        flow.counted -= counted;
        flow.consumed += length as u64 - counted;
        if let Some(wire) = &mut self.wire {
            wire.acknowledge = true;
        }
    }

    /// Puts bytes back that were consumed, in front.
    pub(crate) fn put_back(&mut self, stream: Stream, bytes: &[u8]) {
        let flow = &mut self.inflow[stream as usize];
        flow.counted += bytes.len() as u64;
        bytes
            .iter()
            .rev()
            .for_each(|&byte| flow.bytes.push_front(byte));
    }

    /// Whether the stream's end has been reached.
    pub(crate) fn at_end(&self, stream: Stream) -> bool {
        let flow = &self.inflow[stream as usize];
        flow.ended && flow.bytes.is_empty()
    }

    /// The other side of an exchange that has only begun, with what has come here and not been
    /// read: all that is left of this one where the one at the other end is gone.
    pub(crate) fn unread(&self) -> Link {
        let mut link = Link::new(0);
        for (inflow, new) in self.inflow.iter().zip(&mut link.inflow) {
            new.bytes.clone_from(&inflow.bytes);
            new.counted = inflow.bytes.len() as u64;
        }
        link
    }

    /// The next thing that was said, in order.
    pub(crate) fn event(&mut self) -> Option<Control> {
        self.events.pop_front()
    }

    /// Whether all that we said has been acknowledged.
    pub(crate) fn is_settled(&self) -> bool {
        self.log.is_empty()
    }

    /// Bytes for the carrier; [`Link::sent`] takes them off.
    pub(crate) fn output(&mut self) -> &[u8] {
        self.encode();
        self.wire.as_ref().map_or(&[], |wire| &wire.output)
    }

    /// Whether there is anything for the carrier.
    pub(crate) fn has_output(&self) -> bool {
        self.wire.as_ref().is_some_and(|wire| {
            let unsaid = wire.acknowledge || wire.cursor < self.log.len();
            !wire.output.is_empty() || (wire.greeted && unsaid)
        })
    }

    /// Whether [`Link::connect`] was called for the carrier at hand.
    pub(crate) fn is_connected(&self) -> bool {
        self.wire.is_some()
    }

    /// The carrier has taken that many bytes.
    pub(crate) fn sent(&mut self, length: usize) {
        if let Some(wire) = &mut self.wire {
            wire.output.drain(..length);
        }
    }

    /// Bytes from the carrier.
    ///
    /// # Errors
    /// The carrier is useless; the state is sound, a new carrier may do better.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        let Some(wire) = &mut self.wire else {
            return Ok(());
        };
        wire.input.extend_from_slice(bytes);
        let mut input = std::mem::take(&mut wire.input);
        let mut at = 0;
        while let Some((message, length)) = pull(&input[at..])? {
            at += length;
            self.handle(message)?;
        }
        input.drain(..at);
        if let Some(wire) = &mut self.wire {
            wire.input = input;
        }
        Ok(())
    }

    fn progress(&self) -> Progress {
        let consumed = std::array::from_fn(|i| self.inflow[i].consumed);
        Progress {
            received: self.received,
            consumed,
        }
    }

    /// Encodes acknowledgments and then items, as far as there is room.
    fn encode(&mut self) {
        let progress = self.progress();
        let Some(wire) = &mut self.wire else { return };
        if !wire.greeted {
            return;
        }
        if std::mem::take(&mut wire.acknowledge) {
            push(&Message::Progress(progress), &mut wire.output);
        }
        while wire.output.len() < TRANSMIT
            && let Some(item) = self.log.get(wire.cursor)
        {
            wire.cursor += 1;
            let number = self.acknowledged + wire.cursor as u64;
            self.said = self.said.max(number);
            push(
                &Message::Item {
                    number,
                    item: item.clone(),
                },
                &mut wire.output,
            );
        }
    }

    fn handle(&mut self, message: Message) -> Result<(), LinkError> {
        match message {
            Message::Hello { version, .. } if version != VERSION => {
                Err(LinkError::Version(version))
            }
            Message::Hello { epoch, state, .. } => {
                // A deputy learns of the job's later moves from whoever has it; a
                // host that the job has left hears of it here.
                if (epoch > self.epoch) == self.hosts && epoch != self.epoch {
                    return Err(LinkError::Stale {
                        theirs: epoch,
                        ours: self.epoch,
                    });
                }
                self.epoch = self.epoch.max(epoch);
                self.acknowledge(&state)?;
                if let Some(wire) = &mut self.wire {
                    wire.greeted = true;
                    wire.cursor = 0;
                }
                Ok(())
            }
            Message::Progress(state) => self.acknowledge(&state),
            Message::Item { number, item } => self.take(number, item),
        }
    }

    /// Forgets what the other side has.
    fn acknowledge(&mut self, state: &Progress) -> Result<(), LinkError> {
        let last = self.acknowledged + self.log.len() as u64;
        if state.received < self.acknowledged || state.received > last {
            return Err(LinkError::Acknowledged(state.received));
        }
        let known = usize::try_from(state.received - self.acknowledged).expect("in the log");
        self.log.drain(..known);
        self.acknowledged = state.received;
        if let Some(wire) = &mut self.wire {
            wire.cursor = wire.cursor.saturating_sub(known);
        }
        for (flow, &consumed) in self.outflow.iter_mut().zip(&state.consumed) {
            if consumed > flow.sent {
                return Err(LinkError::Acknowledged(consumed));
            }
            flow.consumed = flow.consumed.max(consumed);
        }
        Ok(())
    }

    fn take(&mut self, number: u64, item: Item) -> Result<(), LinkError> {
        if number != self.received + 1 {
            return Err(LinkError::Order {
                expected: self.received + 1,
                got: number,
            });
        }
        match item {
            Item::Data(stream, bytes) => {
                let flow = &mut self.inflow[stream as usize];
                if flow.bytes.len() + bytes.len() > MAX_INBOX || flow.ended {
                    return Err(LinkError::Credit);
                }
                flow.bytes.extend(bytes);
            }
            Item::End(stream) => self.inflow[stream as usize].ended = true,
            Item::Control(_) if self.events.len() >= MAX_EVENTS => return Err(LinkError::Credit),
            Item::Control(control) => self.events.push_back(control),
        }
        self.received = number;
        if let Some(wire) = &mut self.wire {
            wire.acknowledge = true;
        }
        Ok(())
    }
}

/// Brings two sides together: afterwards each has all that the other ever
/// said, also what credit or a broken carrier held back.
///
/// # Errors
/// When they are not the two sides of one exchange.
pub(crate) fn settle(a: &mut Link, b: &mut Link) -> Result<(), LinkError> {
    let epoch = a.epoch.max(b.epoch);
    (a.epoch, b.epoch) = (epoch, epoch);
    a.connect();
    b.connect();
    loop {
        let from_a = a.output().to_vec();
        a.sent(from_a.len());
        b.feed(&from_a)?;
        let from_b = b.output().to_vec();
        b.sent(from_b.len());
        a.feed(&from_b)?;
        if from_a.is_empty() && from_b.is_empty() {
            break;
        }
    }
    a.disconnect();
    b.disconnect();
    Ok(())
}

fn push(message: &Message, out: &mut Vec<u8>) {
    let body = postcard::to_stdvec(message).expect("plain data always encodes");
    let length = u32::try_from(body.len()).expect("data comes in pieces of MAX_DATA");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&body);
}

/// The first whole message and its length on the carrier.
fn pull(bytes: &[u8]) -> Result<Option<(Message, usize)>, LinkError> {
    let Some((head, rest)) = bytes.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*head) as usize;
    if length > MAX_MESSAGE {
        return Err(LinkError::TooLong(length));
    }
    let Some(body) = rest.get(..length) else {
        return Ok(None);
    };
    let message = postcard::from_bytes(body).map_err(|_| LinkError::Malformed)?;
    Ok(Some((message, 4 + length)))
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;

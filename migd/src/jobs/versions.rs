//! Versions of the values on disk: the variant's index comes first. Append variants,
//! never change one, nor a type that one has.

use libmig::api::{ExitRecord, JobId, NodeName};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::record::{Arrival, Committed, JobRecord, Place, Report, Restored, Stage, Waiting};

/// What is kept on disk, and what it was in the first version.
pub(super) trait Stored: Serialize + DeserializeOwned {
    /// As the first version wrote it.
    type First: DeserializeOwned + Into<Self>;
}

/// A value of any version.
#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = ""))]
pub(super) enum Versioned<T: Stored> {
    /// Jobs had no CPU level.
    V1(T::First),
    /// This release's.
    V2(T),
}

impl<T: Stored> Versioned<T> {
    pub(super) fn latest(self) -> T {
        match self {
            Versioned::V1(first) => first.into(),
            Versioned::V2(value) => value,
        }
    }
}

/// A value as this release writes it.
#[derive(Debug, Serialize)]
pub(super) enum Latest<'a, T> {
    /// Keeps the index.
    #[expect(dead_code, reason = "only read")]
    V1,
    /// As in [`Versioned`].
    V2(&'a T),
}

macro_rules! unchanged {
    ($($value:ty)+) => {
        $(impl Stored for $value { type First = Self; })+
    };
}

unchanged! { Committed Restored Waiting ExitRecord Report u64 }

/// [`JobRecord`] of the first version.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct JobRecordV1 {
    id: JobId,
    name: Option<String>,
    uid: u32,
    user: String,
    command: String,
    place: Place,
    epoch: u64,
    last_attempt: u64,
    pinned: bool,
    started_unix: u64,
    arrived_unix: u64,
    cpu_ms_elsewhere: u64,
}

impl From<JobRecordV1> for JobRecord {
    fn from(first: JobRecordV1) -> Self {
        JobRecord {
            id: first.id,
            name: first.name,
            uid: first.uid,
            user: first.user,
            command: first.command,
            place: first.place,
            epoch: first.epoch,
            last_attempt: first.last_attempt,
            pinned: first.pinned,
            started_unix: first.started_unix,
            arrived_unix: first.arrived_unix,
            cpu_ms_elsewhere: first.cpu_ms_elsewhere,
            cpu_level: None,
        }
    }
}

impl Stored for JobRecord {
    type First = JobRecordV1;
}

/// [`Arrival`] of the first version.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ArrivalV1 {
    record: JobRecordV1,
    epoch: u64,
    source: NodeName,
    stage: Stage,
}

impl From<ArrivalV1> for Arrival {
    fn from(first: ArrivalV1) -> Self {
        Arrival {
            record: first.record.into(),
            epoch: first.epoch,
            source: first.source,
            stage: first.stage,
        }
    }
}

impl Stored for Arrival {
    type First = ArrivalV1;
}

#[cfg(test)]
mod tests {
    use libmig::api::CpuLevel;

    use super::*;

    fn read<T: Stored>(bytes: &[u8]) -> T {
        let (value, rest) = postcard::take_from_bytes::<Versioned<T>>(bytes).unwrap();
        assert_eq!(rest, [0; 0]);
        value.latest()
    }

    /// The bytes that a release of the first version has left on a disk.
    #[test]
    fn values_of_the_first_version_are_read() {
        let record =
            b"\0\x04n1-7\x01\x01a\xe8\x07\x03ann\x07sleep 9\x00\x02\x03\x01\x64\xc8\x01\x05";
        let record: JobRecord = read(record);
        assert_eq!(
            (record.id.number, record.uid, record.cpu_ms_elsewhere),
            (7, 1000, 5)
        );
        assert_eq!((record.arrived_unix, record.cpu_level), (200, None));
        let arrival = b"\0\x04n1-7\0\0\x03ann\x01s\x01\x02n2\x02\x03\x01\x64\x64\0\x04\x02n1\x01";
        let arrival: Arrival = read(arrival);
        assert_eq!((arrival.epoch, arrival.stage), (4, Stage::Built));
        assert_eq!(read::<u64>(b"\0\x09"), 9);
    }

    #[test]
    fn what_is_written_is_read() {
        let first: JobRecord = read(b"\0\x04n1-7\0\0\x03ann\x01s\0\0\0\0\0\0\0");
        let record = JobRecord {
            cpu_level: Some(CpuLevel::V3),
            ..first
        };
        let bytes = postcard::to_stdvec(&Latest::V2(&record)).unwrap();
        assert_eq!(read::<JobRecord>(&bytes), record);
    }
}

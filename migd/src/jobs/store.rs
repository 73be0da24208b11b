//! The job table and the journals on disk: one redb file.
//!
//! Invariant: [`Store::commit`] returns `Ok` only when all of its changes outlive this
//! daemon, and whatever kills it either all or none of them are there. When the machine
//! crashes, with all processes of the node, the last of them may be lost ([`super::disk`]).
//! One process opens the file at a time: that is also what keeps two daemons of one node apart.

use std::{
    io,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use libmig::api::{ExitRecord, JobId};
use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};
use thiserror::Error;
use tracing::error;

use super::disk::Disk;
use super::record::{Arrival, Change, Committed, JobRecord, Report, Restored, Waiting};
use super::versions::{Latest, Stored, Versioned};

type Table = TableDefinition<'static, &'static str, &'static [u8]>;

const RECORDS: Table = TableDefinition::new("records");
const COMMITTED: Table = TableDefinition::new("committed");
const ARRIVALS: Table = TableDefinition::new("arrivals");
const WAITING: Table = TableDefinition::new("waiting");
const EXITS: Table = TableDefinition::new("exits");
const REPORTS: Table = TableDefinition::new("reports");
const RESTORED: Table = TableDefinition::new("restored");
const COUNTERS: Table = TableDefinition::new("counters");

/// More jobs than a node starts while a flush waits for the disk.
const NUMBERS_LOST: u64 = 1000;

const LAST_NUMBER: &str = "last_number";
const GENERATION: &str = "generation";

/// Why the store failed.
#[derive(Debug, Error)]
pub(crate) enum StoreError {
    /// The file.
    #[error("the job table cannot be opened")]
    File(#[from] io::Error),
    /// The database.
    #[error("the job table failed")]
    Database(#[source] Box<redb::Error>),
    /// A value that this build cannot read.
    #[error("the job table holds an unreadable {table} entry `{key}`")]
    Unreadable {
        /// Its table.
        table: &'static str,
        /// Its key.
        key: String,
    },
}

impl StoreError {
    fn is_damage(&self) -> bool {
        matches!(self, Self::Database(error) if matches!(**error, redb::Error::Corrupted(_)))
    }
}

macro_rules! database_errors {
    ($($error:ident)+) => {
        $(
            impl From<redb::$error> for StoreError {
                fn from(error: redb::$error) -> StoreError {
                    StoreError::Database(Box::new(error.into()))
                }
            }
        )+
    };
}

database_errors! { DatabaseError TransactionError TableError StorageError CommitError SetDurabilityError }

/// Everything in the store, as it was when the daemon started.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) records: Vec<JobRecord>,
    pub(crate) committed: Vec<Committed>,
    pub(crate) arrivals: Vec<Arrival>,
    pub(crate) waiting: Vec<Waiting>,
    pub(crate) exits: Vec<ExitRecord>,
    pub(crate) reports: Vec<(JobId, Report)>,
    pub(crate) restored: Vec<Restored>,
    pub(crate) last_number: u64,
    pub(crate) generation: u64,
}

/// The open file.
#[derive(Debug)]
pub(crate) struct Store {
    database: Database,
    /// Numbers of jobs that may have been given and forgotten.
    numbers_lost: u64,
}

impl Store {
    /// Opens the file, or makes it. One that a crash of the machine has damaged is put aside
    /// as `*.damaged`: the jobs in it ended with the machine, but for those that were away,
    /// and those are known where they are.
    ///
    /// # Errors
    /// When it cannot be opened, is damaged though the machine did not crash, or another
    /// daemon has it open.
    pub(crate) fn open(path: &Path) -> Result<Store, StoreError> {
        let rebooted = is_older_than_boot(path);
        let numbers_lost = if rebooted { NUMBERS_LOST } else { 0 };
        match Store::open_file(path, numbers_lost) {
            Err(damage) if rebooted && damage.is_damage() => {
                error!(path = %path.display(), %damage, "the job table did not outlive the machine");
                std::fs::rename(path, path.with_extension("damaged"))?;
                let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
                Store::open_file(path, since_1970.unwrap_or_default().as_secs())
            }
            opened => opened,
        }
    }

    fn open_file(path: &Path, numbers_lost: u64) -> Result<Store, StoreError> {
        let store = Store {
            database: Database::builder().create_with_backend(Disk::open(path)?)?,
            numbers_lost,
        };
        let write = store.begin()?;
        for table in [
            RECORDS, COMMITTED, ARRIVALS, WAITING, EXITS, REPORTS, RESTORED, COUNTERS,
        ] {
            write.open_table(table)?;
        }
        write.commit()?;
        Ok(store)
    }

    /// Reads everything.
    ///
    /// # Errors
    /// When a value cannot be read: the daemon must not start with half a table.
    pub(crate) fn contents(&self) -> Result<Contents, StoreError> {
        let keyed = |entries: Vec<(String, Report)>| {
            entries.into_iter().map(|(key, report)| match key.parse() {
                Ok(job) => Ok((job, report)),
                Err(_) => Err(StoreError::Unreadable {
                    table: "reports",
                    key,
                }),
            })
        };
        Ok(Contents {
            records: values(self.all(RECORDS, "records")?),
            committed: values(self.all(COMMITTED, "committed")?),
            arrivals: values(self.all(ARRIVALS, "arrivals")?),
            waiting: values(self.all(WAITING, "waiting")?),
            exits: values(self.all(EXITS, "exits")?),
            reports: keyed(self.all(REPORTS, "reports")?).collect::<Result<_, _>>()?,
            restored: values(self.all(RESTORED, "restored")?),
            last_number: self.counter(LAST_NUMBER)? + self.numbers_lost,
            generation: self.counter(GENERATION)?,
        })
    }

    /// Makes `changes` outlive this daemon, all or none.
    ///
    /// # Errors
    /// When the disk is full or fails; nothing has changed then.
    pub(crate) fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        let write = self.begin()?;
        for change in changes {
            apply(&write, change)?;
        }
        write.commit()?;
        Ok(())
    }

    fn begin(&self) -> Result<WriteTransaction, StoreError> {
        let mut write = self.database.begin_write()?;
        write.set_durability(Durability::Immediate)?;
        // Without it a crash is followed by a repair that reads the whole file.
        write.set_quick_repair(true);
        Ok(write)
    }

    fn all<T: Stored>(
        &self,
        table: Table,
        name: &'static str,
    ) -> Result<Vec<(String, T)>, StoreError> {
        let read = self.database.begin_read()?;
        let open = read.open_table(table)?;
        let mut found = Vec::new();
        for entry in open.iter()? {
            let (key, value) = entry?;
            let key = key.value().to_owned();
            match postcard::take_from_bytes::<Versioned<T>>(value.value()) {
                Ok((value, [])) => found.push((key, value.latest())),
                _ => return Err(StoreError::Unreadable { table: name, key }),
            }
        }
        Ok(found)
    }

    fn counter(&self, key: &str) -> Result<u64, StoreError> {
        let found = self.all::<u64>(COUNTERS, "counters")?;
        Ok(found
            .into_iter()
            .find(|(name, _)| name == key)
            .map_or(0, |(_, value)| value))
    }
}

/// Whether the machine has been started since the file was written.
fn is_older_than_boot(path: &Path) -> bool {
    let written = std::fs::metadata(path).and_then(|file| file.modified());
    let up = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let up = Duration::new(up.tv_sec.try_into().unwrap_or(0), 0);
    written.is_ok_and(|written| written + up < SystemTime::now())
}

fn values<T>(entries: Vec<(String, T)>) -> Vec<T> {
    entries.into_iter().map(|(_, value)| value).collect()
}

fn apply(write: &WriteTransaction, change: &Change) -> Result<(), StoreError> {
    match change {
        Change::Record(record) => put(write, RECORDS, &record.id.to_string(), record),
        Change::NoRecord(job) => remove(write, RECORDS, job),
        Change::Committed(entry) => put(write, COMMITTED, &entry.job.to_string(), entry),
        Change::NoCommitted(job) => remove(write, COMMITTED, job),
        Change::Arrival(entry) => put(write, ARRIVALS, &entry.record.id.to_string(), entry),
        Change::NoArrival(job) => remove(write, ARRIVALS, job),
        Change::Waiting(entry) => put(write, WAITING, &entry.job.to_string(), entry),
        Change::NoWaiting(job) => remove(write, WAITING, job),
        Change::Restored(entry) => put(write, RESTORED, &entry.uuid, entry),
        Change::NotRestored(uuid) => remove(write, RESTORED, uuid),
        Change::Exit(exit) => put(write, EXITS, &exit.job.to_string(), exit),
        Change::NoExit(job) => remove(write, EXITS, job),
        Change::Report(job, report) => put(write, REPORTS, &job.to_string(), report),
        Change::NoReport(job) => remove(write, REPORTS, job),
        Change::LastNumber(number) => put(write, COUNTERS, LAST_NUMBER, number),
        Change::Generation(count) => put(write, COUNTERS, GENERATION, count),
    }
}

fn put<T: Stored>(
    write: &WriteTransaction,
    table: Table,
    key: &str,
    value: &T,
) -> Result<(), StoreError> {
    let bytes = postcard::to_stdvec(&Latest::V2(value)).expect("stored values are plain data");
    write.open_table(table)?.insert(key, bytes.as_slice())?;
    Ok(())
}

fn remove(write: &WriteTransaction, table: Table, key: &impl ToString) -> Result<(), StoreError> {
    write.open_table(table)?.remove(key.to_string().as_str())?;
    Ok(())
}

//! Servers with their own clients, which check every answer. They work until the file `enough` is there, for as
//! long as it takes to move them often enough.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::{ENOUGH, Program, results};

pub(super) const SERVERS: &[Program] = &[
    server("postgresql", &["/bin/bash", "postgresql.sh"], |folder| {
        write(folder, "postgresql.sh", include_str!("postgresql.sh"))
    }),
    server("redis", &["/bin/bash", "redis.sh"], |folder| {
        write(folder, "redis.sh", include_str!("redis.sh"))?;
        write(folder, "redis.py", include_str!("redis.py"))
    }),
    server(
        "sqlite-writer",
        &["/usr/bin/python3", "sqlite.py"],
        |folder| write(folder, "sqlite.py", include_str!("sqlite.py")),
    ),
];

const fn server(
    name: &'static str,
    command: &'static [&'static str],
    setup: super::Setup,
) -> Program {
    Program::of(name, command, setup, results::stdout)
        .moved(20)
        .until_told()
}

fn write(folder: &Path, name: &str, text: &str) -> Result<()> {
    assert!(name != ENOUGH, "it is the test that writes this one");
    fs::write(folder.join(name), text).with_context(|| format!("writing {name}"))
}

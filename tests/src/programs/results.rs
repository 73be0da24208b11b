//! What a finished run of a real program left behind, and whether it is right by itself.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};

fn read(directory: &Path, name: &str) -> Result<Vec<u8>> {
    let path = directory.join(name);
    fs::read(&path).with_context(|| format!("reading {}", path.display()))
}

/// Runs a tool on the result, and wants it to be content.
fn tool(directory: &Path, program: &str, arguments: &[&str]) -> Result<Output> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .output();
    let output = output.with_context(|| format!("starting {program}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{program} {arguments:?}: {}: {complaint}",
        output.status
    );
    Ok(output)
}

#[expect(clippy::unnecessary_wraps, reason = "one signature for all results")]
pub(super) fn stdout(_: &Path, stdout: &[u8]) -> Result<Vec<u8>> {
    Ok(stdout.to_vec())
}

pub(super) fn pipelines(directory: &Path, stdout: &[u8]) -> Result<Vec<u8>> {
    let mut result = read(directory, "pipelines.out")?;
    ensure!(
        result.ends_with(b"end\n"),
        "the script did not come to its end"
    );
    result.extend_from_slice(stdout);
    Ok(result)
}

pub(super) fn sandbox(directory: &Path, _: &[u8]) -> Result<Vec<u8>> {
    let result = read(directory, "sandbox.out")?;
    ensure!(
        result.ends_with(b"end\n"),
        "the sandbox did not come to its end"
    );
    Ok(result)
}

/// The archive itself: xz promises the same bytes for the same blocks, whatever its threads do.
pub(super) fn xz(directory: &Path, _: &[u8]) -> Result<Vec<u8>> {
    let unpacked = tool(directory, "xz", &["-dc", "text.xz"])?.stdout;
    ensure!(
        unpacked == read(directory, "text")?,
        "it does not unpack to what was packed"
    );
    read(directory, "text.xz")
}

/// The contents in order; the file has counters in its header that depend on nothing else.
pub(super) fn sqlite(directory: &Path, stdout: &[u8]) -> Result<Vec<u8>> {
    let check = tool(
        directory,
        "sqlite3",
        &["result.db", "PRAGMA integrity_check"],
    )?
    .stdout;
    ensure!(
        check == b"ok\n",
        "integrity check: {}",
        String::from_utf8_lossy(&check)
    );
    let mut result = tool(
        directory,
        "sqlite3",
        &["result.db", "SELECT * FROM item ORDER BY id"],
    )?
    .stdout;
    ensure!(
        result.len() > 100_000,
        "only {} bytes of rows",
        result.len()
    );
    result.extend_from_slice(stdout);
    Ok(result)
}

pub(super) fn object(directory: &Path, _: &[u8]) -> Result<Vec<u8>> {
    let object = read(directory, "large.o")?;
    ensure!(object.starts_with(b"\x7fELF"), "no object file");
    Ok(object)
}

/// What the commands printed, in order: prompts and echo depend on how fast was typed.
pub(super) fn interactive(_: &Path, stdout: &[u8]) -> Result<Vec<u8>> {
    // Around each command, readline switches bracketed paste on and off.
    let text = String::from_utf8_lossy(stdout).replace("\x1b[?2004h", "");
    let text = text.replace("\x1b[?2004l\r", "");
    let wanted = ["sum-55", "waited-0", "top-1000", "counted-100000"];
    let mut rest = &text[..];
    for word in wanted {
        let line = rest.lines().position(|line| line.trim_end() == word);
        ensure!(
            line.is_some(),
            "no line {word} where it should be in {text}"
        );
        let at = rest
            .find(&format!("{word}\r"))
            .or_else(|| rest.find(&format!("{word}\n")));
        rest = &rest[at.context("the line has an end")?..];
    }
    Ok(wanted.join("\n").into_bytes())
}

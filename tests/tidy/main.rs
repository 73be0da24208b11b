//! Reads the source tree and checks the rules that no compiler knows: which
//! room may know which, where `unsafe` may stand, how long a file may be.
//!
//! It looks at text, not at syntax: a path `crate::room` anywhere in the code
//! counts as an arrow to that room. Comments do not count. Exceptions are
//! listed here, each with its reason.

mod source;
mod support;

use source::{File, files, read};

/// What each room of libmig may know besides itself.
const ROOMS: &[(&str, &[&str])] = &[
    ("api", &["sys"]),
    ("balance", &["api"]),
    ("capture", &["api", "image", "inspect", "sys"]),
    ("checkpoint", &["image", "transfer", "wire"]),
    ("image", &[]),
    ("inspect", &["api", "image", "sys"]),
    (
        "migration",
        &[
            "api",
            "capture",
            "checkpoint",
            "image",
            "inspect",
            "restore",
            "sys",
            "transfer",
            "wire",
        ],
    ),
    ("restore", &["api", "image", "inspect", "sys"]),
    ("sys", &["image"]),
    ("transfer", &["api", "image", "wire"]),
    ("wire", &["image"]),
];

/// Arrows of single files beyond the table.
const ROOM_EXCEPTIONS: &[(&str, &str, &str)] = &[
    // (file, room, reason)
    (
        "libmig/src/transfer/connection.rs",
        "capture",
        "is the sink that a capture writes its bulk to",
    ),
];

/// Rooms of libmig that a file of `mig-cli` may know besides `api`.
const CLI_EXCEPTIONS: &[(&str, &str, &str)] = &[
    // (file, room, reason)
    (
        "mig-cli/src/commands/inspect.rs",
        "checkpoint",
        "reads a file, also where no daemon runs",
    ),
    (
        "mig-cli/src/commands/chain.rs",
        "checkpoint",
        "reads headers, to know what to ask for",
    ),
    (
        "mig-cli/src/commands/checkpoint.rs",
        "checkpoint",
        "knows how long a chain may be",
    ),
    (
        "mig-cli/src/commands/doctor.rs",
        "inspect",
        "tells of this machine, also where no daemon runs",
    ),
];

/// Files of more than 500 lines, and why they are not split.
const LONG: &[(&str, &str)] = &[
    (
        "migd/src/jobs/registry.rs",
        "one actor owns all that a node knows of its jobs",
    ),
    ("libmig/tests/restore.rs", "one table of hand-made images"),
    ("migd/src/capsule/relay.rs", "one protocol, both ends"),
];

/// Ignored tests that another test runs, in a process of their own: a test that
/// nobody runs is none.
const RUN_BY_OTHERS: &[(&str, &str)] = &[(
    "libmig/tests/remote.rs",
    "run by another test, in a process of its own",
)];

const LONG_FROM: usize = 500;
const TOO_LONG_FROM: usize = 800;

#[test]
fn rooms_know_only_the_rooms_below_them() {
    complain("a room knows another that it must not know", |file| {
        let room = file.room("libmig/src/")?;
        let (_, allowed) = ROOMS.iter().find(|(name, _)| *name == room)?;
        let known = file.paths_after("crate::");
        let rooms = known.iter().filter(|(_, name)| is_room(name));
        let bad = rooms.filter(|(_, name)| {
            name != room
                && !allowed.contains(&name.as_str())
                && !excepted(ROOM_EXCEPTIONS, file, name)
        });
        Some(bad.map(|(line, name)| (*line, name.clone())).collect())
    });
}

#[test]
fn every_room_is_in_the_table() {
    let lib = read("libmig/src/lib.rs");
    let rooms = lib
        .lines
        .iter()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let missing: Vec<_> = rooms.filter(|room| !is_room(room)).collect();
    assert!(missing.is_empty(), "say what these may know: {missing:?}");
}

#[test]
fn the_command_knows_only_the_api() {
    complain("mig-cli knows a room besides libmig::api", |file| {
        let _ = file.room("mig-cli/src/")?;
        let known = file.paths_after("libmig::");
        let bad = known
            .into_iter()
            .filter(|(_, name)| name != "api" && !excepted(CLI_EXCEPTIONS, file, name));
        Some(bad.collect())
    });
}

#[test]
fn the_engine_has_no_async_runtime() {
    complain("libmig knows tokio", |file| {
        let _ = file.room("libmig/src/")?;
        Some(file.lines_with_word("tokio"))
    });
    let manifest = read("libmig/Cargo.toml").lines;
    assert!(
        !manifest.iter().any(|line| line.starts_with("tokio")),
        "libmig depends on tokio"
    );
}

#[test]
fn unsafe_code_stands_in_one_room() {
    // This test names the word that it looks for.
    let may = ["libmig/src/sys/", "tests/tidy/"];
    complain("`unsafe` outside of libmig/src/sys", |file| {
        let exempt = may.iter().any(|room| file.path.starts_with(room));
        (!exempt).then(|| file.lines_with_word("unsafe"))
    });
}

#[test]
fn lints_are_expected_and_not_allowed() {
    complain("`allow` instead of `expect` with a reason", |file| {
        let mut bad = file.lines_containing(&["#[", "allow("].concat());
        bad.extend(file.lines_containing(&["#![", "allow("].concat()));
        // Compiled into several test binaries, of which each uses another part: an
        // expectation would be unfulfilled in some of them.
        bad.retain(|_| file.path != "libmig/tests/common/mod.rs");
        Some(bad)
    });
}

#[test]
fn nothing_is_left_to_do() {
    // Put together here, so that this file does not contain them.
    let marks = [
        ["TO", "DO"],
        ["FIX", "ME"],
        ["todo", "!"],
        ["unimplemented", "!"],
    ];
    complain("something is left to do", |file| {
        let marks = marks.iter().map(|mark| mark.concat());
        Some(marks.flat_map(|m| file.raw_lines_containing(&m)).collect())
    });
}

#[test]
fn no_test_is_ignored() {
    complain("an ignored test", |file| {
        let mut bad = file.lines_containing(&["#[", "ignore"].concat());
        let mut listed = RUN_BY_OTHERS.iter().filter(|(path, _)| *path == file.path);
        bad.retain(|(_, line)| !listed.any(|(_, reason)| line.contains(reason)));
        Some(bad)
    });
}

#[test]
fn every_file_says_what_it_is_for() {
    complain("does not begin with `//!`", |file| {
        let first = file.lines.first().map_or("", String::as_str);
        let silent = first
            .strip_prefix("//!")
            .is_none_or(|text| text.trim().is_empty());
        Some(silent.then(|| (1, first.to_owned())).into_iter().collect())
    });
}

#[test]
fn files_are_of_a_size_to_be_read() {
    complain("too long: split it, or argue in LONG", |file| {
        let lines = file.lines_without_tests();
        let argued = LONG.iter().any(|(path, _)| *path == file.path);
        let limit = if argued && file.is_a_test() {
            TOO_LONG_FROM + 100
        } else if argued || file.is_a_test() {
            TOO_LONG_FROM
        } else {
            LONG_FROM
        };
        let text = format!("{lines} lines");
        Some(
            (lines > limit)
                .then_some((lines, text))
                .into_iter()
                .collect(),
        )
    });
}

#[test]
fn exceptions_are_still_needed() {
    for (path, reason) in LONG {
        let lines = read(path).lines_without_tests();
        assert!(
            lines > LONG_FROM && !reason.is_empty(),
            "{path} is no longer long"
        );
    }
}

fn is_room(name: &str) -> bool {
    ROOMS.iter().any(|(room, _)| *room == name)
}

fn excepted(list: &[(&str, &str, &str)], file: &File, room: &str) -> bool {
    list.iter()
        .any(|(path, name, _)| file.path == *path && *name == room)
}

/// Asks `check` about every file of the tree: `None` means that the rule says
/// nothing about it, otherwise the lines that break it.
fn complain(what: &str, check: impl Fn(&File) -> Option<Vec<(usize, String)>>) {
    let mut asked = 0;
    let mut bad = Vec::new();
    for file in files() {
        if let Some(lines) = check(&file) {
            asked += 1;
            let say =
                |(line, text): (usize, String)| format!("{}:{line}: {}", file.path, text.trim());
            bad.extend(lines.into_iter().map(say));
        }
    }
    assert!(asked > 0, "the rule applied to no file at all");
    assert!(bad.is_empty(), "{what}:\n{}", bad.join("\n"));
}

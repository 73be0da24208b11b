//! Files that earlier versions have written, kept beside this one: `LAYOUT-STREAM.mig` and what
//! `mig inspect --json` said of it then.
//!
//! A release that changes the layout, or the stream in a way that it still reads, adds a pair and
//! keeps the old ones. To make one, in a lab: `mig checkpoint JOB FILE` of the workload `spin`, and
//! `mig inspect --json FILE`. A stream that is not read any more is refused by its version,
//! which the header, read before anything else, must still tell.

use std::path::Path;
use std::process::Command;

use mig_tests::lab::binary;
use serde_json::Value;

use super::said;

#[test]
fn what_earlier_versions_have_written_is_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoint/golden");
    let entries = std::fs::read_dir(&folder).unwrap();
    let files = entries.map(|entry| entry.unwrap().path());
    let files: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|end| end == "mig"))
        .collect();
    assert!(!files.is_empty(), "{}", folder.display());
    for file in files {
        let text = std::fs::read(file.with_extension("json")).unwrap();
        let wanted: Value = serde_json::from_slice(&text).unwrap();
        let output = Command::new(binary("mig"))
            .args(["inspect", "--json"])
            .arg(&file)
            .output()
            .unwrap();
        if output.status.success() {
            let found: Value = serde_json::from_slice(&output.stdout).unwrap();
            for (field, value) in wanted.as_object().unwrap() {
                assert_eq!(&found[field], value, "{field} of {}", file.display());
            }
        } else {
            let version = format!("its stream has version {},", wanted["protocol"]);
            assert!(said(&output).contains(&version), "{}", said(&output));
        }
    }
}

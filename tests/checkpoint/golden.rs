//! Files that earlier versions have written, kept beside this one and restored: see
//! golden/README.md. A stream that is not read any more is refused by its version, which the
//! header, read before anything else, must still tell.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mig_tests::job::Job;
use mig_tests::lab::{Lab, Node, binary};
use mig_tests::workload::Workload;
use serde_json::Value;

use super::said;

/// Where the job of a golden file was started from.
const PROGRAM: &str = "/tmp/golden-spin";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("checkpoint/golden")
}

fn inspect(file: &Path) -> Output {
    let mut command = Command::new(binary("mig"));
    let output = command.args(["inspect", "--json"]).arg(file).output();
    output.expect("start mig")
}

/// A lab whose node is the one that has signed the files.
fn writer() -> Lab {
    let lab = Lab::up(1);
    let node = lab.node("n1");
    node.kill_migd();
    drop(node.sh(&format!(
        "cp {}/test-keys/*.pem /etc/mig/",
        folder().display()
    )));
    node.start_migd();
    lab
}

fn goes_on(lab: &Lab, file: &str) {
    let args = ["--new-job", "--name", "golden", file];
    let job = Job::restore(lab, "n1", "golden", &args).expect("mig starts");
    job.running.wait_tick_after(0).expect(file);
    let outcome = job.finish().expect(file);
    outcome.expect_pass().expect(file);
}

#[test]
fn what_earlier_versions_have_written_goes_on() {
    let entries = std::fs::read_dir(folder()).unwrap();
    let files = entries.map(|entry| entry.unwrap().path());
    let files: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|end| end == "mig"))
        .collect();
    assert!(!files.is_empty(), "{}", folder().display());
    let lab = writer();
    for file in files {
        let text = std::fs::read(file.with_extension("json")).unwrap();
        let wanted: Value = serde_json::from_slice(&text).unwrap();
        let output = inspect(&file);
        if output.status.success() {
            let found: Value = serde_json::from_slice(&output.stdout).unwrap();
            for (field, value) in wanted.as_object().unwrap() {
                assert_eq!(&found[field], value, "{field} of {}", file.display());
            }
            goes_on(&lab, file.to_str().expect("a name of this tree"));
        } else {
            let version = format!("its stream has version {},", wanted["protocol"]);
            assert!(said(&output).contains(&version), "{}", said(&output));
        }
    }
    lab.down_and_check();
}

/// What a golden file is made of; `MIG_GOLDEN` says where it is to be kept.
#[test]
fn what_is_written_now_goes_on() {
    let lab = writer();
    let node = lab.node("n1");
    let job = start(&lab, &node);
    let file = "/shared/golden.mig";
    let output = node.mig(&["checkpoint", "golden", file]);
    assert!(output.status.success(), "{}", said(&output));
    job.running.wait_end().expect("it ends");
    let text = node.mig(&["inspect", "--json", file]);
    let summary: Value = serde_json::from_slice(&text.stdout).unwrap();
    assert_eq!(summary["files"], serde_json::json!(["/"]), "{summary}");
    goes_on(&lab, file);
    if let Some(golden) = std::env::var_os("MIG_GOLDEN") {
        let name = format!("{}-{}", summary["version"], summary["protocol"]);
        let path = Path::new(&golden).join(name);
        let bytes = node.run(&["cat", file]).stdout;
        std::fs::write(path.with_extension("mig"), bytes).unwrap();
        let text = serde_json::to_vec_pretty(&summary).unwrap();
        std::fs::write(path.with_extension("json"), text).unwrap();
    }
    lab.down_and_check();
}

/// A job that needs no file.
fn start<'a>(lab: &'a Lab, node: &Node<'_>) -> Job<'a> {
    let workload = Workload::named("spin");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads/spin.c");
    let compile = format!(
        "gcc -static -O1 -pthread -mno-red-zone -mxsave -o {PROGRAM} {}",
        source.display()
    );
    drop(node.sh(&compile));
    let argv = workload.argv(Path::new(PROGRAM), Path::new("/tmp"));
    let argv = ["sh", "-c", "cd / && exec \"$@\"", "sh"]
        .into_iter()
        .map(str::to_owned)
        .chain(argv)
        .collect::<Vec<_>>();
    let options = ["--cpu", "x86-64-v2"];
    let job = Job::start_with(lab, "n1", "golden", &options, &argv).expect("mig starts");
    job.running.wait_ready().expect("it is ready");
    drop(node.sh(&format!("rm {PROGRAM}")));
    job
}

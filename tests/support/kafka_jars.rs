//! Kafka's jars, copied once by Maven into the target folder and used by every suite from there.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Maven has this long; a first run downloads some 54 MB.
const MAVEN_TIME_MAX: Duration = Duration::from_mins(10);

const POM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kafka/pom.xml");

/// The class path of a Kafka broker.
///
/// # Errors
/// Says what is missing on this machine and how to install it.
pub fn class_path() -> Result<String, String> {
    for (program, package) in [("java", "openjdk-17-jre-headless"), ("mvn", "maven")] {
        let found = Command::new(program).arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !found.is_ok_and(|status| status.success()) {
            return Err(format!(
                "the real-Kafka tests need `{program}` and it does not run here: install a Java runtime (17 or newer) \
                 and Maven (on Debian: apt-get install openjdk-17-jre-headless maven; missing now: {package}), or set \
                 HOOKSTREAM_TEST_BROKERS to the bootstrap servers of a cluster to use"
            ));
        }
    }
    let folder = folder()?;
    Ok(folder.join("*").to_string_lossy().into_owned())
}

/// Fills the folder unless it was filled for the very same pom; one process at a time.
fn folder() -> Result<PathBuf, String> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().ok_or("the target folder has no name")?;
    fs::create_dir_all(target).map_err(|error| format!("create {}: {error}", target.display()))?;
    let folder = target.join("kafka-libs");
    let lock_file = target.join("kafka-libs.lock");
    let lock = File::create(&lock_file).map_err(|error| format!("create {}: {error}", lock_file.display()))?;
    lock.lock().map_err(|error| format!("lock {}: {error}", lock_file.display()))?;
    let pom = fs::read_to_string(POM).map_err(|error| format!("read {POM}: {error}"))?;
    let complete = folder.join("complete");
    if fs::read_to_string(&complete).is_ok_and(|filled_for| filled_for == pom) {
        return Ok(folder);
    }
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(|error| format!("empty {}: {error}", folder.display()))?;
    }
    copy_dependencies(&folder)?;
    fs::write(&complete, pom).map_err(|error| format!("write {}: {error}", complete.display()))?;
    Ok(folder)
}

fn copy_dependencies(folder: &Path) -> Result<(), String> {
    let mut maven = Command::new("mvn")
        .args(["-q", "-B", "-f", POM, "dependency:copy-dependencies", "-DincludeScope=runtime"])
        .arg(format!("-DoutputDirectory={}", folder.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|error| format!("start mvn: {error}"))?;
    let mut stdout = maven.stdout.take().ok_or("mvn has no output")?;
    let output = std::thread::spawn(move || {
        let mut text = String::new();
        let read = stdout.read_to_string(&mut text);
        read.map_or_else(|error| error.to_string(), |_| text)
    });
    let deadline = Instant::now() + MAVEN_TIME_MAX;
    let status = loop {
        match maven.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
            waited => {
                let killed = maven.kill();
                return Err(format!(
                    "mvn has not copied Kafka's jars within {MAVEN_TIME_MAX:?} ({waited:?}, {killed:?})"
                ));
            }
        }
    };
    let output = output.join().unwrap_or_else(|_| String::from("(its output could not be read)"));
    if status.success() {
        return Ok(());
    }
    Err(format!("mvn could not copy Kafka's jars ({status}); it needs Maven Central or a mirror of it once:\n{output}"))
}

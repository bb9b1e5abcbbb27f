//! The shell of a new user: what one block exports is there for the next.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use presenceroute_e2e::{Failure, Outcome, command, ensure, harness, tree};

/// No block may take longer.
const MOST_SECONDS: &str = "300";

/// Runs a script, and gives what it printed.
///
/// What it installs by cargo is built without the minutes that optimising takes.
pub(crate) fn run(script: &str) -> Outcome<String> {
    let mut changed = String::new();
    for line in script.lines() {
        let line = line
            .strip_prefix("cargo install ")
            .map_or(line.to_owned(), |rest| format!("cargo install --debug {rest}"));
        changed.push_str(&line);
        changed.push('\n');
    }
    let exported = command::own_directory().join("exported");
    let exported = exported.display();
    let script = format!("[ ! -e '{exported}' ] || . '{exported}'\n{changed}export -p > '{exported}'\n");
    let file = command::file("block", &script)?;
    let printed = command::own_directory().join("printed");
    let failed = |error: std::io::Error| Failure(format!("{}: {error}", printed.display()));
    let output = File::create(&printed).map_err(failed)?;
    let home = home()?;
    let mut shell = command::new("timeout");
    for variable in of_this_test().chain(of_the_harness()?) {
        shell.env_remove(variable);
    }
    let status = shell
        .args([MOST_SECONDS, "bash", "-euo", "pipefail", &file.display().to_string()])
        .current_dir(tree::path(""))
        .env("PRESENCEROUTE_CACHE", harness::path("CACHE")?)
        .env("CARGO_HOME", of_user("CARGO_HOME", ".cargo"))
        .env("RUSTUP_HOME", of_user("RUSTUP_HOME", ".rustup"))
        .env("CARGO_INSTALL_ROOT", home.join(".cargo"))
        .env("PATH", path(&home)?)
        .env("HOME", home)
        .stdin(Stdio::null())
        .stdout(output.try_clone().map_err(failed)?)
        .stderr(output)
        .status()
        .map_err(failed)?;
    let printed = String::from_utf8_lossy(&fs::read(&printed).map_err(failed)?).into_owned();
    ensure(status.success(), || format!("{status}\n{printed}"))?;
    Ok(printed)
}

/// What cargo tells a test of its package. Build scripts ask for some of it, and a user's cargo would build much anew.
fn of_this_test() -> impl Iterator<Item = OsString> {
    const PREFIXES: [&str; 5] =
        ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
    let is_cargos = |name: &str| name == "CARGO" || PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    env::vars_os().map(|(name, _)| name).filter(move |name| name.to_str().is_some_and(is_cargos))
}

/// The addresses of the harness's Kafka, which a page takes from the harness itself. Those of a Kafka of one's own are set
/// by its user, as the page says.
fn of_the_harness() -> Outcome<Vec<OsString>> {
    const NAMES: [&str; 2] = ["KAFKA_BROKERS", "KAFKA_BROKERS_FROM_PODS"];
    let script = tree::path("tests/harness/kafka").display().to_string();
    let arguments = ["-u", NAMES[0], "-u", NAMES[1], &script, "env"];
    // It fails where the harness has no Kafka.
    let printed = command::run("env", &arguments, None).unwrap_or_default();
    let ours = env::var(NAMES[0]).is_ok_and(|brokers| printed.contains(&format!("{}='{brokers}'", NAMES[0])));
    Ok(if ours { NAMES.map(OsString::from).to_vec() } else { Vec::new() })
}

/// A home directory of its own, so that nothing is left in the user's.
fn home() -> Outcome<PathBuf> {
    let home = command::own_directory().join("home");
    fs::create_dir_all(home.join(".local/bin"))
        .map_err(|error| Failure(format!("{}: {error}", home.display())))?;
    Ok(home)
}

/// The tools and caches are the user's.
fn of_user(variable: &str, folder: &str) -> PathBuf {
    let home = env::var_os("HOME").unwrap_or_default();
    env::var_os(variable).map_or_else(|| Path::new(&home).join(folder), PathBuf::from)
}

fn path(home: &Path) -> Outcome<OsString> {
    let user = env::var_os("PATH").unwrap_or_default();
    let own = [home.join(".local/bin"), home.join(".cargo/bin")];
    let all = own.into_iter().chain(env::split_paths(&user));
    env::join_paths(all).map_err(|error| Failure(error.to_string()))
}

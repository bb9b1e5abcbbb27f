use std::io::Write as _;

use genesys_simulator::{Config, Simulator, StartError};
use tempfile::NamedTempFile;

fn error(change: impl FnOnce(&mut Config)) -> StartError {
    let mut config = Config::default();
    change(&mut config);
    Simulator::new(config).unwrap_err()
}

#[test]
fn an_unusable_ca_file_is_named() {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(b"not a certificate").unwrap();
    for path in [file.path().to_owned(), file.path().with_extension("missing")] {
        let message = error(|config| config.ca_file = Some(path.clone())).to_string();
        assert!(message.contains(path.to_str().unwrap()), "{message}");
    }
}

#[test]
fn a_path_that_belongs_to_something_else_is_refused() {
    for path in ["", "relative", "/", "/control/tokens", "/livez", "/a/{id}", "/api/v2/oauth/token"] {
        let error = error(|config| config.event_bridges_path = path.to_owned());
        assert!(matches!(error, StartError::Path(_)), "{path}: {error}");
    }
}

#[test]
fn a_signature_header_must_be_the_name_of_a_header() {
    let error = error(|config| config.signature_header = "not a header".to_owned());
    assert!(matches!(error, StartError::SignatureHeader(_)), "{error}");
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let simulator = Simulator::new(Config { listen, ..Config::default() }).unwrap();
    let message = simulator.start().await.unwrap_err().to_string();
    assert!(message.contains(&listen.to_string()), "{message}");
}

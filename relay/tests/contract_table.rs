//! docs/contract.md names tests; each of them exists.

use std::path::Path;

/// What stands between backticks in a line.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

#[test]
fn every_test_that_the_contract_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = std::fs::read_to_string(root.join("docs/contract.md")).unwrap();
    let mut named = 0;
    for row in page.lines().filter(|line| line.starts_with("| ") && !line.ends_with("| proved by |")) {
        let proof = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        let mut source = String::new();
        let before = named;
        for name in quoted(proof) {
            if name.ends_with(".rs") {
                source =
                    std::fs::read_to_string(root.join(name)).unwrap_or_else(|_| panic!("there is no {name}"));
            } else {
                let is_there =
                    source.contains(&format!("fn {name}()")) || source.contains(&format!("\"{name}\""));
                assert!(is_there, "there is no test {name}, but docs/contract.md names it in: {row}");
                named += 1;
            }
        }
        assert!(named > before, "no test proves: {row}");
    }
    assert!(named > 0);
}

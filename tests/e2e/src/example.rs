//! The manifests of `deploy/examples`, at home in a test's namespace.

/// The namespaces that the examples are for.
const NAMESPACES: [&str; 2] = ["presence", "genesys-simulator"];

/// The objects of an example in this namespace, which exists: those that make a namespace are left out.
#[must_use]
pub fn in_namespace(manifest: &str, namespace: &str) -> String {
    let is_kept = |document: &&str| !document.contains("\nkind: Namespace\n");
    let kept: Vec<_> = manifest.split("\n---\n").filter(is_kept).collect();
    NAMESPACES.iter().fold(kept.join("\n---\n"), |manifest, example| {
        manifest.replace(&format!("\n  namespace: {example}\n"), &format!("\n  namespace: {namespace}\n"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_object_of_an_example_is_in_the_namespace() {
        let document = |kind: &str, namespace: &str| {
            format!("apiVersion: v1\nkind: {kind}\nmetadata:\n  name: a\n{namespace}")
        };
        let manifest = [
            document("Namespace", ""),
            document("Service", "  namespace: genesys-simulator\n"),
            document("Secret", "  namespace: presence\nstringData: {a: b}\n"),
        ]
        .join("\n---\n");
        let expected = [
            document("Service", "  namespace: here\n"),
            document("Secret", "  namespace: here\nstringData: {a: b}\n"),
        ]
        .join("\n---\n");
        assert_eq!(in_namespace(&manifest, "here"), expected);
    }
}

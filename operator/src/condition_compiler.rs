//! Compiles the conditions of routes before they are validated, beside the threads that serve.
//!
//! What one table may cost is bounded, and what all of them cost in memory, too: few are compiled at once, one of each
//! namespace, and nothing is kept but whether they compile. A namespace full of the costliest tables delays another's by
//! one table. A table has no deadline, because a budget that is counted decides alike on every machine.

use std::sync::Arc;

use presenceroute_core::condition::ConditionChecks;
use presenceroute_crds::PresenceRouteSpec;
use presenceroute_manifest::validate::conditions;

use crate::namespace_limits::NamespaceLimits;

/// How many tables are compiled at once, of all namespaces and of one.
const AT_ONCE: usize = 2;
const AT_ONCE_IN_NAMESPACE: usize = 1;

/// Compiles conditions. A process has one.
pub struct ConditionCompiler {
    checks: Arc<ConditionChecks>,
    limits: NamespaceLimits,
}

impl Default for ConditionCompiler {
    fn default() -> Self {
        Self { checks: Arc::default(), limits: NamespaceLimits::new(AT_ONCE, AT_ONCE_IN_NAMESPACE) }
    }
}

impl ConditionCompiler {
    /// Compiles the conditions that were not compiled before, and returns the answers about all.
    pub async fn compile(&self, namespace: &str, spec: &PresenceRouteSpec) -> &ConditionChecks {
        if !self.checks.knows(conditions(spec)) {
            let _permit = self.limits.acquire(namespace).await;
            let checks = Arc::clone(&self.checks);
            let conditions: Vec<_> = conditions(spec).map(str::to_owned).collect();
            let all = move || checks.check_all(conditions.iter().map(String::as_str));
            // Where the runtime ends meanwhile, so does the reconcile.
            let _ = tokio::task::spawn_blocking(all).await;
        }
        &self.checks
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use presenceroute_crds::PresenceRouteSpec;
    use serde_json::json;
    use tokio::time::Instant;

    use super::*;

    fn spec(conditions: &[String]) -> PresenceRouteSpec {
        let routes: Vec<_> =
            conditions.iter().map(|when| json!({"eventType": "t", "topic": "t", "when": when})).collect();
        serde_json::from_value(json!({
            "genesys": {"region": "mypurecloud.ie", "credentialsSecretRef": {"name": "oauth"}},
            "source": {"webhook": {"signingSecretRef": {"name": "webhook"}}},
            "endpoint": {"url": "https://presence.example.com/"},
            "routes": routes,
            "kafka": {"bootstrapServers": ["kafka:9092"]},
        }))
        .unwrap()
    }

    /// On the one thread of a test's runtime: it is free again while the tables are compiled.
    #[tokio::test]
    async fn costly_tables_of_one_namespace_delay_neither_timers_nor_others() {
        let compiler = Arc::new(ConditionCompiler::default());
        let costly = |number: usize| {
            let pattern = format!("id.matches(r'[\\pL\\pN]{{20}}{number}')");
            spec(&[pattern.clone(), pattern + " || true"])
        };
        let tables = (0..20).map(|number| {
            let (compiler, spec) = (Arc::clone(&compiler), costly(number));
            tokio::spawn(async move { compiler.compile("costly", &spec).await.knows(conditions(&spec)) })
        });
        let tables: Vec<_> = tables.collect();
        tokio::task::yield_now().await;
        let began = Instant::now();
        tokio::time::sleep(Duration::from_millis(1)).await;
        let late = began.elapsed();
        let ordinary = spec(&["id == 'a'".to_owned()]);
        assert!(compiler.compile("ordinary", &ordinary).await.knows(["id == 'a'"]));
        let delayed = began.elapsed();
        let all_done = futures::future::join_all(tables);
        assert!(all_done.await.into_iter().all(|known| known.unwrap()));
        let all = began.elapsed();
        println!("a timer after {late:?}, another namespace after {delayed:?}, all after {all:?}");
        assert!(late < all / 4 && delayed < all / 2, "{late:?}, {delayed:?}, {all:?}");
    }
}

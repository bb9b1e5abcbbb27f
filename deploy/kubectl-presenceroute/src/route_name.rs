//! The name of a route on the command line, completed from the cluster.

use std::ffi::{OsStr, OsString};

use clap::Parser;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};

use crate::arguments::ClusterArguments;
use crate::cluster::Cluster;

/// The name of a route.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RouteName {
    /// The PresenceRoute.
    #[arg(value_name = "NAME", add = completer())]
    pub(crate) name: String,
}

/// Completes the names of the routes in the namespace that the command line names. Without a cluster there are none.
pub(crate) fn completer() -> ArgValueCompleter {
    ArgValueCompleter::new(candidates)
}

fn candidates(begun: &OsStr) -> Vec<CompletionCandidate> {
    let Some(begun) = begun.to_str() else { return Vec::new() };
    let names = std::thread::scope(|scope| {
        let listing = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
            runtime.block_on(async {
                let cluster = Cluster::connect(&named_cluster()).await.ok()?;
                cluster.route_names().await.ok()
            })
        });
        listing.join().ok().flatten().unwrap_or_default()
    });
    names.into_iter().filter(|name| name.starts_with(begun)).map(CompletionCandidate::new).collect()
}

/// The cluster that the words before the one that is completed name.
fn named_cluster() -> ClusterArguments {
    /// Only the flags that say where.
    #[derive(Parser)]
    #[command(ignore_errors = true, no_binary_name = true)]
    struct Where {
        #[command(flatten)]
        cluster: ClusterArguments,
        #[arg(trailing_var_arg = false)]
        rest: Vec<OsString>,
    }
    let words = std::env::args_os().skip_while(|word| word != "__complete").skip(1);
    Where::try_parse_from(words).map(|found| found.cluster).unwrap_or_default()
}

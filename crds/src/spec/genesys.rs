//! `spec.genesys`: the organisation, for every source.

// The schema derive copies each type into a private module, where `pub` is out of reach.
#![allow(unreachable_pub)]

use kube::KubeSchema;
use presenceroute_core::genesys_api::TokenRequest;
use serde::{Deserialize, Serialize};

use crate::references::{CaSecretRef, OAuthClientSecretRef, SECRET_NAME, SECRET_NAME_MESSAGE};

/// Where the Genesys Cloud API is, and the OAuth client to call it with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.region) != has(self.apiUrl)")
    .message("exactly one of region and apiUrl must be set"))]
pub struct Genesys {
    /// The region's domain, such as `mypurecloud.ie`; the API is then `https://api.REGION`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9-]+([.][a-z0-9-]+)+$')")
        .message("must be the domain of a Genesys Cloud region, such as mypurecloud.ie"))]
    pub region: Option<String>,
    /// The base URL of the API, instead of a region: a simulator, a gateway or a proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[^/?#@ ]+(/[^?# ]*)?$')")
        .message("must be an http or https URL without user, query or fragment"))]
    pub api_url: Option<String>,
    /// The base URL of the login service, which gives tokens. Default: `https://login.REGION`, or `apiUrl` where that is set.
    /// The webhook source asks the API itself for tokens unless this is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[^/?#@ ]+(/[^?# ]*)?$')")
        .message("must be an http or https URL without user, query or fragment"))]
    pub login_url: Option<String>,
    /// The OAuth client (grant: client credentials).
    #[x_kube(validation = Rule::new(SECRET_NAME).message(SECRET_NAME_MESSAGE))]
    pub credentials_secret_ref: OAuthClientSecretRef,
    /// Where an organisation's API differs from the documented one.
    #[serde(default)]
    pub api: GenesysApi,
}

/// Deviations of one organisation's API.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GenesysApi {
    /// The path of the OAuth token endpoint. Default: `/oauth/token` of the login service, or `/api/v2/oauth/token` of the
    /// API for the webhook source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    #[x_kube(validation = Rule::new("self.startsWith('/')").message("must begin with /"))]
    pub token_path: Option<String>,
    /// The form of the token request. Default: `Form`, or `Json` for the webhook source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_request: Option<TokenRequest>,
    /// A Secret with the certificate of the private CA that signed the certificates of the API and the login service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(SECRET_NAME).message(SECRET_NAME_MESSAGE))]
    pub ca_secret_ref: Option<CaSecretRef>,
}

use crate::organisation::{EVENT_BRIDGES, Organisation, json_of};

#[tokio::test]
async fn a_client_over_its_budget_gets_429_with_retry_after() {
    let organisation = Organisation::with(|config| config.rate_limit_per_minute = 2).await;
    assert_eq!(organisation.get(EVENT_BRIDGES).await.status(), 200);
    assert_eq!(organisation.get(EVENT_BRIDGES).await.status(), 200);
    let refused = organisation.get(EVENT_BRIDGES).await;
    assert_eq!(refused.status(), 429);
    let seconds: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds));
    assert_eq!(json_of(refused).await["code"], "too.many.requests");
}

#[tokio::test]
async fn the_budget_is_the_clients_not_the_tokens() {
    let organisation = Organisation::with(|config| config.rate_limit_per_minute = 1).await;
    assert_eq!(organisation.get(EVENT_BRIDGES).await.status(), 200);
    for (client, status) in [("client", 429), ("another", 200)] {
        let token = organisation.token(client).await;
        let call = organisation.http.get(organisation.url(EVENT_BRIDGES)).bearer_auth(token);
        assert_eq!(call.send().await.unwrap().status(), status, "{client}");
    }
}

//! Commands that change users, keys and tokens.

use std::process::ExitCode;

use anyhow::Result;
use identity::Role;
use serde_json::json;

use super::{At, Output, client, print};
use crate::node::admin::{KeyShown, TokenShown, UserShown};

pub async fn create_token(at: &At, ttl_s: u64) -> Result<ExitCode> {
    let token: TokenShown = client::post(
        at,
        "/v1/tokens",
        &json!({ "ttl_s": ttl_s, "role": "server" }),
    )
    .await?;
    print::either(at.output, &token, || token.token.clone())?;
    Ok(ExitCode::SUCCESS)
}

pub async fn create_user(at: &At, name: &str, role: Role, project: &str) -> Result<ExitCode> {
    let body = json!({ "name": name, "role": role, "project": project });
    let user: UserShown = client::post(at, "/v1/users", &body).await?;
    print::either(at.output, &user, || {
        format!(
            "user {} made; give it a key with `skerry key create --user {}`",
            user.name, user.name
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

pub async fn users(at: &At) -> Result<ExitCode> {
    let users: Vec<UserShown> = client::get(at, "/v1/users").await?;
    print::either(at.output, &json!({ "users": users }), || {
        let rows = users.iter().map(|user| {
            vec![
                user.name.clone(),
                user.role.to_string(),
                user.project.clone(),
            ]
        });
        print::table(&["name", "role", "project"], rows.collect())
    })?;
    Ok(ExitCode::SUCCESS)
}

pub async fn create_key(at: &At, user: &str, note: &str) -> Result<ExitCode> {
    let key: KeyShown =
        client::post(at, "/v1/keys", &json!({ "user": user, "note": note })).await?;
    print::either(at.output, &key, || {
        let secret = key.secret_key.as_deref().unwrap_or_default();
        format!("access key  {}\nsecret key  {secret}", key.access_key)
    })?;
    print::note("the secret is not shown again");
    Ok(ExitCode::SUCCESS)
}

pub async fn keys(at: &At) -> Result<ExitCode> {
    let keys: Vec<KeyShown> = client::get(at, "/v1/keys").await?;
    print::either(at.output, &json!({ "keys": keys }), || {
        let rows = keys
            .iter()
            .map(|key| vec![key.access_key.clone(), key.user.clone(), key.note.clone()]);
        print::table(&["access key", "user", "note"], rows.collect())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Removes a `user` or a `key`.
pub async fn remove(at: &At, kind: &str, name: &str) -> Result<ExitCode> {
    anyhow::ensure!(!name.contains(['/', '?', '#', ' ']), "`{name}` is no name");
    client::delete(at, &format!("/v1/{kind}s/{name}")).await?;
    match at.output {
        Output::Json => print::json(&json!({ "action": "removed", kind: name }))?,
        Output::Text => print::note(format!("removed {name}")),
    }
    Ok(ExitCode::SUCCESS)
}

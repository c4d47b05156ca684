//! The admin API (HTTP with JSON): for the local command line over a Unix socket in the data folder, mode 0600; and
//! below `/admin` of the HTTP door, which also has health and metrics.
//!
//! Whoever may open the socket is the folder's owner: no further credentials are asked for. Others need an administrator's
//! access key, see [`super::remote`].

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::{Context, Result};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router, middleware};
use identity::{AccessKeySpec, JoinRole, JoinToken, Role, UserSpec};
use ids::UserId;
use object_core::api::{Caller, Objects};
use registry::{DeleteOptions, Freshness, ListOptions, Refused, RegistryError};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;

use super::kinds::{AccessKey, NamedUser, Token, User};
use super::remote::{self, Guard};
use super::requests::{Observer, Why, observe};
use super::{Node, http, metrics, site};

/// The socket's name in the data folder.
pub const SOCKET: &str = "admin.sock";
/// A join token lives at most this long.
const TOKEN_TTL_S_MAX: u64 = 7 * 24 * 3600;

/// A refusal: status and words.
pub struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = Json(serde_json::json!({ "error": self.1 }));
        let mut response = (self.0, body).into_response();
        response.extensions_mut().insert(Why(self.1));
        response
    }
}

impl From<RegistryError> for Refusal {
    fn from(error: RegistryError) -> Self {
        let status = match error.refused() {
            Some(Refused::AlreadyExists(_) | Refused::Conflict { .. }) => StatusCode::CONFLICT,
            Some(Refused::NotFound(_)) => StatusCode::NOT_FOUND,
            Some(_) => StatusCode::BAD_REQUEST,
            None => StatusCode::SERVICE_UNAVAILABLE,
        };
        Refusal(status, error.to_string())
    }
}

fn bad(error: impl std::fmt::Display) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, error.to_string())
}

fn missing(what: String) -> Refusal {
    Refusal(StatusCode::NOT_FOUND, what)
}

type Answer<T> = std::result::Result<Json<T>, Refusal>;

/// Serves the socket until the node stops.
pub fn serve_unix(node: &Arc<Node>) -> Result<JoinHandle<()>> {
    let path = node.folder.path().join(SOCKET);
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path)
        .with_context(|| format!("can't make the socket {}", path.display()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    let router = observed(router(), node, "socket").with_state(node.clone());
    let stop = node.stopping();
    Ok(tokio::spawn(async move {
        let served = axum::serve(listener, router)
            .with_graceful_shutdown(async move { stop.cancelled().await });
        if let Err(error) = served.await {
            tracing::error!(%error, "the admin socket broke");
        }
    }))
}

/// The admin API.
fn router() -> Router<Arc<Node>> {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/where", get(whereabouts))
        .route("/v1/placement", get(placement))
        .route("/v1/tokens", post(create_token))
        .route("/v1/users", get(users).post(create_user))
        .route("/v1/users/{name}", delete(remove_user))
        .route("/v1/keys", get(keys).post(create_key))
        .route("/v1/keys/{key}", delete(remove_key))
}

/// Serves health, metrics and remote administration until the node stops.
pub fn serve_http(node: &Arc<Node>, listener: TcpListener) -> JoinHandle<()> {
    let guard = Arc::new(Guard {
        keys: node.keys.clone(),
        insecure_http: node.doors.insecure_http,
    });
    let admin = router().layer(middleware::from_fn_with_state(guard, remote::authenticate));
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", metrics::page(node))
        .nest("/admin", admin);
    let router = observed(router, node, "http").with_state(node.clone());
    let open = node.requests.http_open.clone();
    http::serve(
        listener,
        router,
        node.doors.tls_source(),
        node.stopping(),
        open,
    )
}

/// Every request of a door is logged and counted.
fn observed(router: Router<Arc<Node>>, node: &Arc<Node>, door: &'static str) -> Router<Arc<Node>> {
    let observer = Arc::new(Observer {
        requests: node.requests.clone(),
        door,
        next_id: AtomicU64::new(node.random_u64()),
    });
    router.layer(middleware::from_fn_with_state(observer, observe))
}

async fn readyz(State(node): State<Arc<Node>>) -> Response {
    let reasons = node.reasons(&node.groups.status());
    if reasons.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n").into_response()
}

async fn status(State(node): State<Arc<Node>>) -> Json<super::status::SiteStatus> {
    Json(node.site_status().await)
}

#[derive(Deserialize)]
struct Where {
    bucket: String,
    key: String,
}

async fn whereabouts(
    State(node): State<Arc<Node>>,
    Query(asked): Query<Where>,
) -> Answer<object_core::api::Whereabouts> {
    tracing::Span::current().record("bucket", asked.bucket.as_str());
    let caller = Caller {
        user: UserId::default(),
        name: "local".into(),
        admin: true,
        may_write: false,
    };
    let found = node
        .gateway
        .whereabouts(&caller, &asked.bucket, &asked.key)
        .await;
    found.map(Json).map_err(|error| {
        use object_core::api::ObjectError;
        let status = match error {
            ObjectError::NoSuchBucket(_) | ObjectError::NoSuchKey | ObjectError::NoSuchVersion => {
                StatusCode::NOT_FOUND
            }
            ObjectError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_REQUEST,
        };
        Refusal(status, error.to_string())
    })
}

async fn placement(State(node): State<Arc<Node>>) -> Answer<membership::EpochMap> {
    let map = node
        .topology
        .newest()
        .ok_or_else(|| missing("the placement is not known yet".into()))?;
    Ok(Json((*map).clone()))
}

#[derive(Deserialize)]
struct NewToken {
    ttl_s: u64,
    role: JoinRole,
}

/// A join token, shown once.
#[derive(Serialize, Deserialize)]
pub struct TokenShown {
    /// The token.
    pub token: String,
    /// When it expires, in milliseconds since 1970.
    pub expires_ms: u64,
}

async fn create_token(
    State(node): State<Arc<Node>>,
    Json(new): Json<NewToken>,
) -> Answer<TokenShown> {
    if new.ttl_s == 0 || new.ttl_s > TOKEN_TTL_S_MAX {
        return Err(bad(format!(
            "a token lives between 1 and {TOKEN_TTL_S_MAX} seconds"
        )));
    }
    let authority = node
        .registry
        .get::<super::kinds::Authority>(super::kinds::SITE, Freshness::Linearizable)
        .await?;
    let authority = authority.ok_or_else(|| missing("the site has no authority yet".into()))?;
    let expires_ms = node.platform.wall_ms().0 + new.ttl_s * 1000;
    let new = identity::token::NewToken {
        site: node.site,
        ca_fingerprint: identity::x509::fingerprint(&authority.spec.certificate),
        role: new.role,
        expires_ms,
        addresses: node
            .topology
            .servers()
            .into_values()
            .map(|spec| spec.address)
            .take(8)
            .collect(),
    };
    let (token, record) = JoinToken::create(new, &mut node.platform.rng()).map_err(bad)?;
    node.registry
        .create::<Token>(&record.id.to_string(), record)
        .await?;
    Ok(Json(TokenShown {
        token: token.to_text(),
        expires_ms,
    }))
}

/// A user, as lists show it.
#[derive(Serialize, Deserialize)]
pub struct UserShown {
    /// The name.
    pub name: String,
    /// The id.
    pub id: String,
    /// `admin`, `member` or `reader`.
    pub role: Role,
    /// The project.
    pub project: String,
}

async fn users(State(node): State<Arc<Node>>) -> Answer<Vec<UserShown>> {
    let page = node
        .registry
        .list_all::<User>(&ListOptions::default())
        .await?;
    let shown = page.items.into_iter().map(|user| UserShown {
        name: user.metadata.name,
        id: user.spec.id.to_string(),
        role: user.spec.user.role,
        project: user.spec.user.project,
    });
    Ok(Json(shown.collect()))
}

#[derive(Deserialize)]
struct NewUser {
    name: String,
    role: Role,
    project: String,
}

async fn create_user(State(node): State<Arc<Node>>, Json(new): Json<NewUser>) -> Answer<UserShown> {
    identity::users::check_name(&new.name).map_err(bad)?;
    identity::users::check_name(&new.project).map_err(bad)?;
    let id = UserId::random(&mut node.platform.rng());
    let user = UserSpec {
        name: new.name.clone(),
        role: new.role,
        project: new.project.clone(),
    };
    match site::add_user(&node.registry, NamedUser { id, user }).await {
        Ok(()) => {}
        Err(error) if matches!(error.refused(), Some(Refused::PreconditionFailed(_))) => {
            return Err(missing(format!("there is no project `{}`", new.project)));
        }
        Err(error) => return Err(error.into()),
    }
    Ok(Json(UserShown {
        name: new.name,
        id: id.to_string(),
        role: new.role,
        project: new.project,
    }))
}

async fn remove_user(State(node): State<Arc<Node>>, Path(name): Path<String>) -> Answer<()> {
    let user = node
        .registry
        .get::<User>(&name, Freshness::Linearizable)
        .await?;
    let user = user.ok_or_else(|| missing(format!("there is no user `{name}`")))?;
    let keys = node
        .registry
        .list_all::<AccessKey>(&ListOptions::default())
        .await?;
    for key in keys
        .items
        .iter()
        .filter(|key| key.spec.user == user.spec.id)
    {
        node.registry
            .delete::<AccessKey>(&key.metadata.name, DeleteOptions::default())
            .await?;
    }
    node.registry
        .delete::<User>(&name, DeleteOptions::default())
        .await?;
    Ok(Json(()))
}

/// An access key; the secret only where it was just made.
#[derive(Serialize, Deserialize)]
pub struct KeyShown {
    /// The access key.
    pub access_key: String,
    /// Its secret, shown once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key: Option<String>,
    /// The user's name.
    pub user: String,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// What it is for.
    pub note: String,
}

async fn keys(State(node): State<Arc<Node>>) -> Answer<Vec<KeyShown>> {
    let page = node
        .registry
        .list_all::<AccessKey>(&ListOptions::default())
        .await?;
    let users = node
        .registry
        .list_all::<User>(&ListOptions::default())
        .await?
        .items;
    let name_of = |id: UserId| {
        users
            .iter()
            .find(|user| user.spec.id == id)
            .map_or_else(|| id.to_string(), |user| user.metadata.name.clone())
    };
    let shown = page.items.into_iter().map(|key| KeyShown {
        user: name_of(key.spec.user),
        access_key: key.spec.access_key,
        secret_key: None,
        created_ms: key.spec.created_ms,
        note: key.spec.note,
    });
    Ok(Json(shown.collect()))
}

#[derive(Deserialize)]
struct NewKey {
    user: String,
    note: String,
}

async fn create_key(State(node): State<Arc<Node>>, Json(new): Json<NewKey>) -> Answer<KeyShown> {
    let user = node
        .registry
        .get::<User>(&new.user, Freshness::Linearizable)
        .await?;
    let user = user.ok_or_else(|| missing(format!("there is no user `{}`", new.user)))?;
    if new.note.len() > 256 {
        return Err(bad("a note has at most 256 bytes"));
    }
    let now = node.platform.wall_ms().0;
    let made = AccessKeySpec::create(
        user.spec.id,
        now,
        new.note.clone(),
        &node.site_key,
        &mut node.platform.rng(),
    );
    let (spec, secret) = made;
    let access_key = spec.access_key.clone();
    node.registry.create::<AccessKey>(&access_key, spec).await?;
    Ok(Json(KeyShown {
        access_key,
        secret_key: Some(secret.reveal().to_owned()),
        user: new.user,
        created_ms: now,
        note: new.note,
    }))
}

async fn remove_key(State(node): State<Arc<Node>>, Path(key): Path<String>) -> Answer<()> {
    node.registry
        .delete::<AccessKey>(&key, DeleteOptions::default())
        .await?;
    Ok(Json(()))
}

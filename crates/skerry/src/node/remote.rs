//! Who may administrate from elsewhere: a user with the role admin, by one of its access keys (HTTP Basic), over TLS.
//!
//! Plain HTTP is taken from this machine only, unless it was allowed for the doors. Secrets are compared in constant time,
//! and whether a key or its secret is wrong is not told apart.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use identity::Secret;
use object_core::api::Caller;
use object_s3::KeyDirectory;
use serde_json::json;

use super::http::Arrived;
use super::requests::Why;

/// What requests are judged by.
pub struct Guard {
    /// The keys that are valid now.
    pub keys: Arc<dyn KeyDirectory>,
    /// Whether plain HTTP may leave the machine.
    pub insecure_http: bool,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It came over plain HTTP from another machine.
    Plain,
    /// It names no key.
    NoKey,
    /// The key or its secret is wrong.
    WrongKey,
    /// The key's user is no administrator.
    NotAdmin,
}

impl Refused {
    fn words(self) -> &'static str {
        match self {
            Refused::Plain => "administration from another machine needs TLS",
            Refused::NoKey => "administration needs an access key and its secret (HTTP Basic)",
            Refused::WrongKey => "the access key or its secret is wrong",
            Refused::NotAdmin => "the access key belongs to a user that is no administrator",
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let body = Json(json!({ "error": self.words() }));
        let mut response = match self {
            Refused::Plain | Refused::NotAdmin => (StatusCode::FORBIDDEN, body).into_response(),
            Refused::NoKey | Refused::WrongKey => {
                let how = [(header::WWW_AUTHENTICATE, "Basic realm=\"skerry\"")];
                (StatusCode::UNAUTHORIZED, how, body).into_response()
            }
        };
        let why = Why(self.words().to_owned());
        response.extensions_mut().insert(why);
        response
    }
}

/// Lets administrators' requests through.
pub async fn authenticate(
    State(guard): State<Arc<Guard>>,
    Extension(arrived): Extension<Arrived>,
    request: Request,
    next: Next,
) -> Response {
    let caller = match guard.judge(arrived, request.headers()) {
        Ok(caller) => caller,
        Err(refused) => return refused.into_response(),
    };
    // Only one that was found right: what else is sent as a key may be a secret.
    if let Some((access_key, _)) = credentials(request.headers()) {
        tracing::Span::current().record("access_key", access_key.as_str());
    }
    if request.method() != Method::GET {
        let (method, path) = (request.method(), request.uri().path());
        tracing::info!(user = caller.name, %method, path, "an administrator asked from elsewhere");
    }
    next.run(request).await
}

impl Guard {
    fn judge(&self, arrived: Arrived, headers: &HeaderMap) -> Result<Caller, Refused> {
        if !arrived.tls && !arrived.local && !self.insecure_http {
            return Err(Refused::Plain);
        }
        let (access_key, secret) = credentials(headers).ok_or(Refused::NoKey)?;
        let entry = self.keys.find(&access_key);
        // An unknown key takes the same steps as a known one.
        let right = entry.as_ref().map_or("", |entry| entry.secret.as_str());
        let same = Secret::new(right.to_owned()) == secret;
        match entry {
            Some(entry) if same && entry.caller.admin => Ok(entry.caller),
            Some(_) if same => Err(Refused::NotAdmin),
            _ => Err(Refused::WrongKey),
        }
    }
}

/// The key and the secret of `Authorization: Basic …`.
fn credentials(headers: &HeaderMap) -> Option<(String, Secret)> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (access_key, secret) = decoded.split_once(':')?;
    Some((access_key.to_owned(), Secret::new(secret.to_owned())))
}

#[cfg(test)]
mod tests {
    use ids::UserId;
    use object_s3::KeyEntry;

    use super::*;

    struct TwoKeys;

    impl KeyDirectory for TwoKeys {
        fn find(&self, access_key: &str) -> Option<KeyEntry> {
            let admin = match access_key {
                "SKADMIN" => true,
                "SKMEMBER" => false,
                _ => return None,
            };
            Some(KeyEntry {
                secret: "right".into(),
                caller: Caller {
                    user: UserId::default(),
                    name: access_key.to_lowercase(),
                    admin,
                    may_write: true,
                },
            })
        }
    }

    const TLS: Arrived = Arrived {
        tls: true,
        local: false,
    };

    fn judge(arrived: Arrived, insecure_http: bool, value: &str) -> Result<String, Refused> {
        let guard = Guard {
            keys: Arc::new(TwoKeys),
            insecure_http,
        };
        let mut headers = HeaderMap::new();
        if !value.is_empty() {
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        }
        guard.judge(arrived, &headers).map(|caller| caller.name)
    }

    fn basic(text: &str) -> String {
        format!("Basic {}", STANDARD.encode(text))
    }

    #[test]
    fn only_an_administrator_with_the_right_secret_gets_in() {
        assert_eq!(
            judge(TLS, false, &basic("SKADMIN:right")),
            Ok("skadmin".into())
        );
        let wrong = [
            "SKADMIN:wrong",
            "SKADMIN:",
            "SKOTHER:right",
            "SKOTHER:",
            ":",
        ];
        for text in wrong {
            assert_eq!(
                judge(TLS, false, &basic(text)),
                Err(Refused::WrongKey),
                "{text}"
            );
        }
        let member = basic("SKMEMBER:right");
        assert_eq!(judge(TLS, false, &member), Err(Refused::NotAdmin));
        let member = basic("SKMEMBER:wrong");
        assert_eq!(judge(TLS, false, &member), Err(Refused::WrongKey));
    }

    #[test]
    fn what_names_no_key_is_told_what_is_missing() {
        let none = ["", "Basic", "Basic %%%", "Bearer SKADMIN:right"];
        for value in none {
            assert_eq!(judge(TLS, false, value), Err(Refused::NoKey), "{value}");
        }
        assert_eq!(judge(TLS, false, &basic("SKADMIN")), Err(Refused::NoKey));
    }

    #[test]
    fn plain_http_is_refused_from_elsewhere_before_the_key_is_looked_at() {
        let here = Arrived {
            tls: false,
            local: true,
        };
        let away = Arrived {
            tls: false,
            local: false,
        };
        let right = basic("SKADMIN:right");
        assert!(judge(here, false, &right).is_ok());
        assert!(judge(away, true, &right).is_ok());
        assert_eq!(judge(away, false, &right), Err(Refused::Plain));
        assert_eq!(judge(away, false, ""), Err(Refused::Plain));
        assert_eq!(
            judge(away, true, &basic("SKADMIN:x")),
            Err(Refused::WrongKey)
        );
    }
}

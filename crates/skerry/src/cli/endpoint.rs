//! Which S3 service a command talks to: the site in the data folder, or any endpoint with keys from the environment.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use object_client::{Endpoint, S3Client};

use super::{Output, folder, variables};

const REGION: &str = "us-east-1";

/// Where S3 is.
#[derive(Debug, Clone, Args)]
pub struct EndpointArguments {
    #[arg(
        long,
        value_name = "DIR",
        help = "The data folder of the site or of one of its nodes [env: SKERRY_DATA]"
    )]
    data: Option<PathBuf>,
    /// Any S3 service instead of the site, such as the S3 door of a node elsewhere (port 7300); its keys come
    /// from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// A PEM file with the authorities to trust under https (default: AWS_CA_BUNDLE, else the system's)
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Put buckets into the host's name instead of the path
    #[arg(long)]
    virtual_host: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

impl EndpointArguments {
    /// How to print.
    pub fn output(&self) -> Output {
        self.output
    }

    /// A client of the service.
    pub fn client(&self) -> Result<S3Client> {
        Ok(S3Client::new(self.endpoint()?)?)
    }

    /// The service and its keys.
    pub fn endpoint(&self) -> Result<Endpoint> {
        let mut endpoint = match &self.endpoint {
            Some(url) => made_of(|name| match name {
                "AWS_ENDPOINT_URL" => Some(url.clone()),
                name => std::env::var(name).ok(),
            })?,
            None => self.of_site()?,
        };
        endpoint.path_style = !self.virtual_host;
        if let Some(file) = &self.ca {
            endpoint.ca_file = Some(file.clone());
        }
        Ok(endpoint)
    }

    fn of_site(&self) -> Result<Endpoint> {
        let data = folder::find(self.data.clone())?;
        let variables = variables(&data).context("for another S3 service, give --endpoint URL")?;
        made_of(|wanted| {
            let found = variables.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| value.clone())
        })
    }
}

/// Puts an endpoint together from what S3 clients' variables say.
fn made_of(variable: impl Fn(&str) -> Option<String>) -> Result<Endpoint> {
    let given = |name: &str| variable(name).filter(|value| !value.is_empty());
    let needed = |name: &str| given(name).with_context(|| format!("{name} is not set"));
    let region = given("AWS_REGION").or_else(|| given("AWS_DEFAULT_REGION"));
    Ok(Endpoint {
        url: needed("AWS_ENDPOINT_URL")?,
        region: region.unwrap_or_else(|| REGION.to_owned()),
        access_key: needed("AWS_ACCESS_KEY_ID")?,
        secret_key: needed("AWS_SECRET_ACCESS_KEY")?,
        session_token: given("AWS_SESSION_TOKEN"),
        path_style: true,
        ca_file: given("AWS_CA_BUNDLE").map(PathBuf::from),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(pairs: &[(&str, &str)]) -> Result<Endpoint> {
        made_of(|wanted| {
            let found = pairs.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn variables_make_an_endpoint() {
        let mut pairs = vec![
            ("AWS_ENDPOINT_URL", "http://localhost:7300"),
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_REGION", ""),
        ];
        let endpoint = given(&pairs).unwrap();
        assert_eq!(endpoint.region, "us-east-1");
        assert_eq!((endpoint.session_token, endpoint.ca_file), (None, None));
        pairs.push(("AWS_DEFAULT_REGION", "eu-1"));
        pairs.push(("AWS_CA_BUNDLE", "ca.pem"));
        let endpoint = given(&pairs).unwrap();
        assert_eq!(endpoint.region, "eu-1");
        assert_eq!(endpoint.ca_file, Some("ca.pem".into()));
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = given(&[("AWS_ENDPOINT_URL", "http://a"), ("AWS_ACCESS_KEY_ID", "k")]);
        let error = error.unwrap_err().to_string();
        assert_eq!(error, "AWS_SECRET_ACCESS_KEY is not set");
    }
}

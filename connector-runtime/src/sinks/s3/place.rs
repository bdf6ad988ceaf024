//! Where a bucket is.

use reqwest::Url;

use super::config::{Config, name_problem};
use crate::sink::{TargetFault, TargetFaultKind};
use crate::sinks::offered::unusable;
use crate::sinks::shared::http;

/// Directory buckets have sessions and hosts of their own.
const DIRECTORY_BUCKET_ENDS: &str = "--x-s3";
/// What AWS clients write for the endpoint of the region.
const AWS_ANYWHERE: &str = "s3.amazonaws.com";

/// How regions begin whose domain is another one.
const PARTITIONS: &[(&str, &str)] = &[
    ("cn-", "amazonaws.com.cn"),
    ("eusc-", "amazonaws.eu"),
    ("us-iso-", "c2s.ic.gov"),
    ("us-isob-", "sc2s.sgov.gov"),
    ("us-isof-", "csp.hci.ic.gov"),
    ("eu-isoe-", "cloud.adc-e.uk"),
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Without a slash at its end.
    pub(super) endpoint: String,
    /// The bucket is the first part of the host's name; else of the path.
    pub(super) virtual_host: bool,
    /// Without a slash at its end.
    pub(super) bucket: Url,
}

impl Place {
    pub(super) fn of(config: &Config) -> Result<Self, TargetFault> {
        for (field, name) in [("bucket", &config.bucket), ("region", &config.region)] {
            if let Some(problem) = name_problem(name) {
                return Err(refused(format!("{field} {problem}")));
            }
        }
        if config.bucket.ends_with(DIRECTORY_BUCKET_ENDS) {
            return Err(refused("a directory bucket cannot be written to".to_owned()));
        }
        let (endpoint, virtual_host) = match &config.endpoint {
            Some(endpoint) => (own_endpoint(endpoint, &config.region)?, false),
            // The certificate of AWS is for one name below that of the region.
            None => (aws_endpoint(&config.region), !config.bucket.contains('.')),
        };
        let bucket = if virtual_host {
            endpoint.replacen("://", &format!("://{}.", config.bucket), 1)
        } else {
            format!("{endpoint}/{}", config.bucket)
        };
        let bucket = Url::parse(&bucket).map_err(|error| unusable(&error))?;
        Ok(Self { endpoint, virtual_host, bucket })
    }

    /// For opendal, which cuts the bucket's name and a dot from the beginning of a host: a bucket `store` would not be found
    /// at `store.example.org`. Behind the end of an empty login it does not see them.
    pub(super) fn guarded_endpoint(&self) -> String {
        if self.virtual_host { self.endpoint.clone() } else { self.endpoint.replacen("://", "://@", 1) }
    }
}

fn own_endpoint(endpoint: &str, region: &str) -> Result<String, TargetFault> {
    let mut url = Url::parse(http::without_login(endpoint)?).map_err(|error| unusable(&error))?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refused("the endpoint must be an address without a query".to_owned()));
    }
    if url.host_str() == Some(AWS_ANYWHERE) && url.scheme() == "https" {
        url = Url::parse(&aws_endpoint(region)).map_err(|error| unusable(&error))?;
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn aws_endpoint(region: &str) -> String {
    let domain =
        PARTITIONS.iter().find(|(begin, _)| region.starts_with(begin)).map_or("amazonaws.com", |(_, domain)| domain);
    format!("https://s3.{region}.{domain}")
}

fn refused(says: String) -> TargetFault {
    TargetFault::new(TargetFaultKind::Misconfigured("CONFIG_UNUSABLE"), says)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn place(bucket: &str, region: &str, endpoint: Option<&str>) -> Result<Place, TargetFault> {
        // As they are when what a reference stands for is known.
        let mut config = Config::with(&json!({}));
        (config.bucket, config.region) = (bucket.to_owned(), region.to_owned());
        config.endpoint = endpoint.map(str::to_owned);
        Place::of(&config)
    }

    fn check(bucket: &str, region: &str, endpoint: Option<&str>, expect: &str) {
        let place = place(bucket, region, endpoint).expect("is a place");
        assert_eq!(place.bucket.as_str(), expect);
    }

    #[test]
    fn aws_has_the_bucket_in_the_host_and_an_endpoint_in_the_path() {
        check("b", "eu-west-1", None, "https://b.s3.eu-west-1.amazonaws.com/");
        check("b", "cn-north-1", None, "https://b.s3.cn-north-1.amazonaws.com.cn/");
        check("b", "us-gov-west-1", None, "https://b.s3.us-gov-west-1.amazonaws.com/");
        check("b", "eusc-de-east-1", None, "https://b.s3.eusc-de-east-1.amazonaws.eu/");
        check("b", "us-iso-east-1", None, "https://b.s3.us-iso-east-1.c2s.ic.gov/");
        check("b", "us-isob-east-1", None, "https://b.s3.us-isob-east-1.sc2s.sgov.gov/");
        check("a.b", "eu-west-1", None, "https://s3.eu-west-1.amazonaws.com/a.b");
        check("b", "auto", Some("http://127.0.0.1:9000/"), "http://127.0.0.1:9000/b");
        check("b", "auto", Some("HTTPS://Store.Example.org/deep/"), "https://store.example.org/deep/b");
        check("b", "eu-west-1", Some("https://s3.amazonaws.com"), "https://s3.eu-west-1.amazonaws.com/b");
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for (bucket, region, endpoint) in [
            ("a/b", "r", None),
            ("..", "r", None),
            ("b", "evil.org/#", None),
            ("b--use1-az4--x-s3", "us-east-1", None),
            ("b", "r", Some("http://u:p@127.0.0.1:9000")),
            ("b", "r", Some("http://127.0.0.1:9000/?x=1")),
        ] {
            let fault = place(bucket, region, endpoint).expect_err(bucket);
            assert_eq!(fault.kind, TargetFaultKind::Misconfigured("CONFIG_UNUSABLE"), "{bucket} {region} {endpoint:?}");
        }
    }
}

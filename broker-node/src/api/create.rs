//! `POST create`: parse → propose → wait until every node matches with it.

use api_types::connector::{ConnectorSpec, Desired};
use api_types::{ApiError, LogIndex, Reason};
use meta_service::state::{ClusterState, CommandBody, NodeState, Refusal, Reply, ReplyBody};

use super::answer::{Answer, Failure, Outcome};
use super::request::Input;
use super::{Api, spec};

pub async fn create(api: &Api, input: Input) -> Outcome {
    let mut warnings = input.unknown_keys(&[], false);
    let parsed = spec::parse(&input.body, &api.options.fences)?;
    let name = parsed.spec.name.clone();
    warnings.extend(parsed.warnings);
    warnings.extend(placement_warnings(&api.control.local_state(), &parsed.spec, api.options.when_full_is_set));
    let reply = api.control.propose(CommandBody::CreateConnector { spec: Box::new(parsed.spec) }).await?;
    let Reply { index, body } = reply;
    match body {
        ReplyBody::Created { .. } => {
            warnings.extend(wait_for_nodes(api, index).await);
            Ok(Answer::done(warnings))
        }
        ReplyBody::Refused(refusal) => Err(refused(name.as_str(), &refusal).into()),
        ReplyBody::Done | ReplyBody::Deleting { .. } | ReplyBody::Admitted { .. } | ReplyBody::Registered { .. } => {
            Err(Failure::new(Reason::Internal, "unexpected reply to a create"))
        }
    }
}

/// The refusal of a command about the connector of this name.
pub fn refused(name: &str, refusal: &Refusal) -> ApiError {
    match refusal {
        Refusal::ConnectorExists => ApiError::connector_exists(name),
        Refusal::ConnectorDeleting => {
            ApiError::new(Reason::ConnectorDeleting, format!("Connector {name} is being deleted."))
        }
        Refusal::ConnectorNotFound => ApiError::connector_not_found(name),
        Refusal::Stale => ApiError::new(Reason::StaleRevision, format!("Connector {name} was changed meanwhile.")),
        Refusal::UnknownDisk
        | Refusal::IdInUse
        | Refusal::DiskWentBack { .. }
        | Refusal::LeaseHeld
        | Refusal::AddressInUse { .. }
        | Refusal::AddressSilent { .. } => ApiError::new(Reason::Internal, refusal.to_string()),
    }
}

/// The catalogue barrier. The change is committed by now: what cannot be confirmed is a warning, never an error.
pub async fn wait_for_nodes(api: &Api, index: LogIndex) -> Vec<String> {
    match api.control.barrier(index).await {
        Ok(missing) => missing
            .iter()
            .map(|node| format!("node {node} has not confirmed the change yet; it follows, or loses its lease"))
            .collect(),
        Err(error) => vec![format!("the change is committed, but the nodes could not be asked to confirm it: {error}")],
    }
}

/// What the user should know about where it will run, and about a queue that nobody empties.
fn placement_warnings(state: &ClusterState, spec: &ConnectorSpec, when_full_is_set: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    let up = || state.nodes.values().filter(|node| node.state == NodeState::Up);
    let offered = up().any(|node| node.kinds.contains(&spec.kind));
    if !offered {
        warnings.push(format!("no node offers kind {}; the connector stays Idle and collects", spec.kind));
    }
    for name in &spec.placement.nodes {
        if !state.nodes.values().any(|node| node.name.as_str() == name) {
            warnings.push(format!("placement.nodes names {name}, which is no node of this cluster"));
        }
    }
    for zone in &spec.placement.zones {
        if !state.nodes.values().any(|node| node.zone == *zone) {
            warnings.push(format!("placement.zones names {zone}, and no node is in it"));
        }
    }
    let idle = !offered || spec.desired == Desired::Stopped;
    if idle && spec.queue.when_full.is_none() && !when_full_is_set {
        warnings.push("while the connector does not run, a full queue drops its oldest records; set queue.when_full to block to refuse new ones instead".to_owned());
    }
    warnings
}

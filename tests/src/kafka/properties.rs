//! server.properties: who listens where, and who may come in.

use std::path::Path;

use anyhow::Result;

use super::{GUEST, KafkaOptions, PASSWORD, USER};
use crate::ports;

/// Who may come in where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    Plain,
    Sasl,
    Tls,
    SaslTls,
    Proxied,
}

#[derive(Clone, Copy)]
pub(super) struct Ports {
    controller: u16,
    pub(super) plain: u16,
    sasl: u16,
    tls: u16,
    sasl_tls: u16,
    proxied: u16,
}

impl Ports {
    pub(super) fn free() -> Result<Self> {
        Ok(Self {
            controller: ports::free()?,
            plain: ports::free()?,
            sasl: ports::free()?,
            tls: ports::free()?,
            sasl_tls: ports::free()?,
            proxied: ports::free()?,
        })
    }

    pub(super) fn of(self, listener: Listener) -> u16 {
        match listener {
            Listener::Plain => self.plain,
            Listener::Sasl => self.sasl,
            Listener::Tls => self.tls,
            Listener::SaslTls => self.sasl_tls,
            Listener::Proxied => self.proxied,
        }
    }
}

pub(super) fn text(at: usize, ports: &[Ports], folder: &Path, scratch: &Path, options: &KafkaOptions) -> String {
    let own = ports[at];
    let replicas = options.brokers;
    let voters: Vec<String> =
        ports.iter().enumerate().map(|(at, ports)| format!("{}@127.0.0.1:{}", at + 1, ports.controller)).collect();
    let (listeners, advertised) = listeners(own, options);
    let mut text = format!(
        "process.roles=broker,controller\nnode.id={}\ncontroller.quorum.voters={}\n\
         listeners={listeners},CONTROLLER://127.0.0.1:{}\nadvertised.listeners={advertised}\n\
         controller.listener.names=CONTROLLER\ninter.broker.listener.name=PLAINTEXT\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_PLAINTEXT,SASLTLS:SASL_SSL,TLS:SSL,PROXIED:SASL_PLAINTEXT\n\
         log.dirs={}\nnum.partitions=1\nlog.retention.ms=-1\nauto.create.topics.enable=false\n\
         offsets.topic.num.partitions=1\noffsets.topic.replication.factor={replicas}\n\
         transaction.state.log.num.partitions=1\ntransaction.state.log.replication.factor={replicas}\n\
         transaction.state.log.min.isr=1\nshare.coordinator.state.topic.num.partitions=1\n\
         share.coordinator.state.topic.replication.factor={replicas}\nshare.coordinator.state.topic.min.isr=1\n\
         group.initial.rebalance.delay.ms=0\nlog.cleaner.dedupe.buffer.size=8388608\n\
         broker.session.timeout.ms=2000\nbroker.heartbeat.interval.ms=400\n\
         controller.quorum.election.timeout.ms=500\ncontroller.quorum.fetch.timeout.ms=1000\n",
        at + 1,
        voters.join(","),
        own.controller,
        folder.join("data").display(),
    );
    if options.accounts {
        text.push_str(&accounts());
    }
    if options.speaks_tls() {
        let asks = if options.client_certificate { "required" } else { "none" };
        text.push_str(&format!(
            "ssl.keystore.type=PEM\nssl.keystore.location={}\nssl.truststore.type=PEM\nssl.truststore.location={}\n\
             ssl.client.auth={asks}\n",
            scratch.join("keystore.pem").display(),
            scratch.join("truststore.pem").display()
        ));
    }
    for (name, value) in &options.settings {
        text.push_str(&format!("{name}={value}\n"));
    }
    text
}

/// Where it listens, and what it tells clients of that.
fn listeners(own: Ports, options: &KafkaOptions) -> (String, String) {
    let host = &options.advertised_host;
    let mut all = vec![("PLAINTEXT", own.plain, own.plain)];
    if options.accounts {
        all.push(("SASL", own.sasl, own.sasl));
    }
    if options.speaks_tls() {
        all.push(("TLS", own.tls, own.tls));
    }
    if options.accounts && options.speaks_tls() {
        all.push(("SASLTLS", own.sasl_tls, own.sasl_tls));
    }
    if let Some(proxy_port) = options.proxy_port {
        all.push(("PROXIED", own.proxied, proxy_port));
    }
    let listeners: Vec<String> = all.iter().map(|(name, port, _)| format!("{name}://127.0.0.1:{port}")).collect();
    let advertised: Vec<String> = all.iter().map(|(name, _, port)| format!("{name}://{host}:{port}")).collect();
    (listeners.join(","), advertised.join(","))
}

fn accounts() -> String {
    let plain = format!(
        "org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}=\"{PASSWORD}\" \
         user_{GUEST}=\"{PASSWORD}\";"
    );
    let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
    let mut text = format!(
        "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n\
         authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
         super.users=User:ANONYMOUS;User:{USER};User:CN={USER}\nallow.everyone.if.no.acl.found=false\n"
    );
    for listener in ["sasl", "sasltls", "proxied"] {
        text.push_str(&format!(
            "listener.name.{listener}.plain.sasl.jaas.config={plain}\n\
             listener.name.{listener}.scram-sha-256.sasl.jaas.config={scram}\n\
             listener.name.{listener}.scram-sha-512.sasl.jaas.config={scram}\n"
        ));
    }
    text
}

//! Common beginnings: nodes that share a network.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab::{Host, Lab};
use crate::node::{Node, Settings};
use crate::status::Device;
use crate::wait;

const READY: Duration = Duration::from_secs(10);

/// Two members of one network, connected: `a` minted the key and opens `allow`, `b` opens nothing and knows `a`.
pub fn pair(lab: &Lab, allow: &[&str]) -> Result<(Node, Node)> {
    let (mut a, mut b) = strangers(lab)?;
    connect(&mut a, &mut b, allow)?;
    Ok((a, b))
}

/// Makes a [`pair`] of two nodes with settings of their own.
pub fn connect(a: &mut Node, b: &mut Node, allow: &[&str]) -> Result<()> {
    b.join(&a.mint(allow)?, &[])?;
    a.start_and_wait()?;
    b.start_and_wait()?;
    b.wait_peer_up(a)?;
    Ok(())
}

/// Two nodes without any key; `b` knows where `a` is. Neither is started.
pub fn strangers(lab: &Lab) -> Result<(Node, Node)> {
    let a = Node::new(lab.host("a")?, Settings::default())?;
    let b = Node::new(lab.host("b")?, Settings::knowing(&[&a])?)?;
    Ok((a, b))
}

/// Adds a third member that knows `known`, and connects it.
pub fn third(lab: &Lab, known: &Node, key: &str) -> Result<Node> {
    let mut node = Node::new(lab.host("c")?, Settings::knowing(&[known])?)?;
    node.join(key, &[]).context("the third member joins")?;
    node.start_and_wait()?;
    node.wait_peer_up(known)?;
    Ok(node)
}

/// A gateway with two LAN devices behind it, each on a LAN of its own, and a member that knows it.
#[derive(Debug)]
pub struct Site {
    /// Fronts both.
    pub gateway: Node,
    /// A member far away.
    pub laptop: Node,
    /// "Lobby camera", forwarded to its IPv4 address by the configuration.
    pub camera: Host,
    /// "Office printer", forwarded to its IPv6 address by a command.
    pub printer: Host,
}

impl Site {
    /// Everything up; `allow` is the gateway's scope.
    pub fn new(lab: &Lab, allow: &[&str]) -> Result<Self> {
        Self::with(lab, allow, Settings::default())
    }

    /// The same with more settings of the gateway.
    pub fn with(lab: &Lab, allow: &[&str], settings: Settings) -> Result<Self> {
        let host = lab.host("gateway")?;
        let (camera, printer) = (lab.device(&host, "camera")?, lab.device(&host, "printer")?);
        let forwards = vec![("Lobby camera".to_owned(), camera.ipv4.into())];
        let mut gateway = Node::new(host, Settings { forwards, ..settings })?;
        let mut laptop = Node::new(lab.host("laptop")?, Settings::knowing(&[&gateway])?)?;
        laptop.join(&gateway.mint(allow)?, &[])?;
        gateway.start_and_wait()?;
        laptop.start_and_wait()?;
        laptop.wait_peer_up(&gateway)?;
        gateway.meshhold(&["meshlan", "forwards", "add", "Office printer", &printer.ipv6.to_string()])?;
        let site = Self { gateway, laptop, camera, printer };
        for name in ["Lobby camera", "Office printer"] {
            for address in site.addresses(name)? {
                wait::until_true(READY, &format!("{name} answers pings to {address}"), || {
                    site.laptop.host.succeeds("ping", &["-n", "-c1", "-W1", &address.to_string()])
                })?;
            }
        }
        Ok(site)
    }

    /// The device, once the gateway can reach it.
    pub fn device(&self, name: &str) -> Result<Device> {
        wait::until(READY, &format!("device {name} is ready"), || {
            let devices = self.gateway.network()?.devices;
            Ok(devices.into_iter().find(|device| device.name == name && device.state == "ready"))
        })
    }

    /// Its mesh addresses.
    pub fn addresses(&self, name: &str) -> Result<[IpAddr; 2]> {
        let device = self.device(name)?;
        Ok([device.ipv4.context("no IPv4 address")?.into(), device.ipv6.into()])
    }
}

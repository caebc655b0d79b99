//! The mesh interface and what hangs on it, compared and put back; made anew where it is gone.
//!
//! Owns the order: closed first, then the interface, its programs, its addresses. Must not know when that is asked for.

use std::os::fd::AsFd;

use anyhow::Context;
use meshhold_core::identity::NodeId;

use super::lan::Lan;
use super::reconcile::Mended;
use crate::datapath::workers::TunQueues;
use crate::platform::linux::{InterfaceSetup, Net, NetError, caps, links, reserved, sys, sysctl};

/// How the interface is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// Whose it is.
    pub(super) node: NodeId,
    pub(super) workers: usize,
    pub(super) offload: bool,
    /// MB/s, of one worker.
    pub(super) sealing: u32,
}

impl Lan {
    /// Brings everything to the wanted state.
    pub(super) async fn reconcile(&mut self, setup: &InterfaceSetup) -> Mended {
        let mut outcome = Mended::default();
        if self.is_gone()
            && let Err(error) = self.make_anew(setup, &mut outcome).await
        {
            outcome.failed =
                Some(format!("the interface {} is gone and can't be made anew: {error:#}", self.interface));
            return outcome;
        }
        if self.net.is_none() {
            self.take_up_late().await;
            return outcome;
        }
        if let Err(error) = self.put_back(setup, &mut outcome).await {
            outcome.failed = Some(format!("{} is not as it should be: {error:#}", self.interface));
        }
        outcome
    }

    /// Whether there was an interface and somebody deleted or renamed it.
    pub(super) fn is_gone(&self) -> bool {
        self.index.is_some() && sys::index_of(&self.interface) != self.index
    }

    /// Whether something is seen to be otherwise that the kernel doesn't tell of.
    pub(super) fn is_undone(&mut self) -> bool {
        if self.net.is_none() {
            return false;
        }
        let reserved = self.reserves.is_some_and(|wanted| reserved::is_set() == Some(!wanted));
        let guarded = self.guards.names();
        reserved
            || self.is_gone()
            || sysctl::differs(&self.interface)
            || self.kernel.as_mut().is_some_and(|kernel| kernel.is_undone(&guarded))
    }

    async fn put_back(&mut self, setup: &InterfaceSetup, outcome: &mut Mended) -> anyhow::Result<()> {
        if let Some(net) = &self.net {
            outcome.mended.extend(net.set_up(setup).await?.changed);
        }
        if let Some(wanted) = self.reserves
            && reserved::set(wanted).unwrap_or_default()
        {
            outcome.mended.push("the reservation of ports for LAN devices".to_owned());
        }
        let Some(kernel) = &mut self.kernel else { return Ok(()) };
        self.guards.complete(kernel, &links::others(&self.interface)?);
        outcome.mended.extend(kernel.mend(&self.guards.names())?);
        Ok(())
    }

    /// Everything is on the new interface before it has an address.
    async fn make_anew(&mut self, setup: &InterfaceSetup, outcome: &mut Mended) -> anyhow::Result<()> {
        if let (Some(net), Some(index)) = (&self.net, self.index.take()) {
            // Closed before anything else; that the interface is missing is known.
            let _ = net.set_up(setup).await;
            // It may have another name now.
            net.delete_index(index).await?;
        }
        self.index = Some(u32::MAX);
        let mut queues = self.create(self.plan.workers, self.plan.offload).await?;
        self.put_programs_on(&mut queues)?;
        self.workers.as_ref().context("there are no workers")?.renew(queues)?;
        outcome.mended.push(format!("interface {}", self.interface));
        Ok(())
    }

    fn put_programs_on(&mut self, queues: &mut TunQueues) -> anyhow::Result<()> {
        let Some(kernel) = &mut self.kernel else { return Ok(()) };
        kernel.renew()?;
        let promoted = kernel.promoted();
        let steering = kernel.steering(queues.steering(self.plan.sealing))?;
        Ok(queues.steer(steering.fd()?.as_fd(), promoted)?)
    }

    /// Takes up the interface where its name was taken at the start and no longer is.
    async fn take_up_late(&mut self) {
        if !self.may_come || !self.is_free().await {
            return;
        }
        match self.take_up().await {
            Ok(()) => {
                self.warnings.clear();
                self.may_come = false;
                tracing::info!("{} can be had now", self.interface);
            }
            Err(error) => tracing::warn!("no mesh interface: {error:#}"),
        }
    }

    /// Whether nobody has the name, or has left it with the interface.
    async fn is_free(&self) -> bool {
        let Ok(net) = Net::new() else { return false };
        net.require_free(&self.interface).await.is_ok()
    }

    async fn take_up(&mut self) -> anyhow::Result<()> {
        let mut queues = self.create(self.plan.workers, self.plan.offload).await?;
        if caps::probe().is_empty() {
            self.load(&mut queues, self.plan.sealing)?;
        }
        self.workers.as_ref().context("there are no workers")?.renew(queues)
    }
}

/// Whether the interface is missing for a reason that may pass.
pub(super) fn may_pass(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(NetError::NameTaken { .. }))
}

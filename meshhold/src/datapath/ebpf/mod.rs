//! The kernel side of the data path: loads the programs, attaches them, and keeps their maps equal to the policy.
//!
//! The only module that knows aya. Must not know where the policy comes from, nor how the interface was made.
//! Links and maps are pinned, so policy and flows outlive the daemon; the next one goes on with them.

mod apply;
mod attach;
mod barrier;
mod error;
mod events;
mod gateway;
mod hook;
mod judge;
mod maps;
mod mend;
mod pins;
mod refusal;
mod relay;
mod remember;
mod seed;
mod translations;
mod wanted;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    programs::{SchedClassifier, SocketFilter},
};
use meshhold_common::{
    Reason,
    maps::{Counter, Steering},
};

pub use self::{error::EbpfError, events::Events, hook::Hook, judge::LEAST, relay::KernelRelay};
use self::{
    hook::Hold,
    maps::{Maps, of},
    pins::PinRoot,
    wanted::Wanted,
};
use super::policy::Policy;
use crate::platform::linux::kernel_word::KernelWord;

/// The object that the build script compiled; empty where it was told to skip it.
static OBJECT: &[u8] = include_bytes_aligned!(env!("MESHHOLD_EBPF_OBJ"));

/// One of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// From the mesh towards local services.
    Ingress,
    /// From local programs into the mesh.
    Egress,
    /// On every other interface, inwards.
    Guard,
    /// On every other interface, outwards.
    Barrier,
    /// From the mesh to LAN devices.
    DeviceIngress,
    /// From LAN devices into the mesh.
    DeviceEgress,
    /// On interfaces behind which there are devices.
    Answer,
}

impl Program {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Ingress,
        Self::Egress,
        Self::Guard,
        Self::Barrier,
        Self::DeviceIngress,
        Self::DeviceEgress,
        Self::Answer,
    ];

    /// Name in the object and in `bpftool prog show`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "mesh_ingress",
            Self::Egress => "mesh_egress",
            Self::Guard => "lan_guard",
            Self::Barrier => "mesh_barrier",
            Self::DeviceIngress => "device_ingress",
            Self::DeviceEgress => "device_egress",
            Self::Answer => "lan_answer",
        }
    }
}

/// The loaded programs and their maps.
pub struct EbpfDatapath {
    ebpf: Ebpf,
    maps: Maps,
    wanted: Wanted,
    pins: Option<PinRoot>,
    hook: Hook,
    /// Without pins: what holds the attached programs, by what would be the name of the pin.
    holds: Vec<(String, Hold)>,
    interface: String,
    /// The programs for LAN devices are on the mesh interface. `None`: those of a former daemon may be.
    fronts: Option<bool>,
    /// See [`Self::take_forgotten`].
    forgotten: bool,
    /// Interfaces with an answer program, by index. `None`: others may have a former daemon's.
    lans: Option<BTreeMap<u32, String>>,
    /// The kernel's numbers of programs, as far as they were asked for.
    ids: BTreeMap<&'static str, u32>,
}

/// True where this executable holds the programs.
pub fn is_built() -> bool {
    !OBJECT.is_empty()
}

impl EbpfDatapath {
    /// Loads the programs, pins the maps under `pin_root` (a folder on a BPF file system, made 0700; its path should
    /// end in the layout version, `v1`) and attaches to the mesh interface. Until [`Self::apply`], what a former daemon had
    /// in force stays in force, as while none ran; where there was none everything is closed.
    ///
    /// # Errors
    /// [`EbpfError`]; nothing stays attached then, not even what a former daemon left, so that user space can take over: but the
    /// barrier, which closes only.
    pub fn load(interface: &str, pin_root: &Path) -> Result<Self, EbpfError> {
        Self::load_and_attach(interface, pin_root).inspect_err(|_| {
            if let Err(error) = Self::give_way(interface, pin_root) {
                tracing::warn!("programs stay attached, and go on filtering: {error}");
            }
        })
    }

    fn load_and_attach(interface: &str, pin_root: &Path) -> Result<Self, EbpfError> {
        let mut datapath = Self::open(Some(pin_root))?;
        interface.clone_into(&mut datapath.interface);
        for program in [Program::Egress, Program::Ingress] {
            datapath.attach(program, interface)?;
        }
        Ok(datapath)
    }

    /// How the programs are hung on interfaces.
    pub const fn hook(&self) -> Hook {
        self.hook
    }

    /// Loads the programs without attaching them; with no `pin_root`, nothing outlives this value.
    ///
    /// # Errors
    /// [`EbpfError`]
    pub fn open(pin_root: Option<&Path>) -> Result<Self, EbpfError> {
        if !is_built() {
            return Err(EbpfError::NotBuilt);
        }
        let pins = pin_root.map(PinRoot::create).transpose()?;
        let (mut ebpf, forgotten) = load_object(pins.as_ref())?;
        load_programs(&mut ebpf)?;
        let mut maps = Maps::take(&mut ebpf)?;
        let wanted = maps.adopt()?;
        let (interface, hook, holds) = (String::new(), Hook::of_kernel(), Vec::new());
        let (fronts, lans, ids) = (None, None, BTreeMap::new());
        Ok(Self { ebpf, maps, wanted, pins, hook, holds, interface, fronts, forgotten, lans, ids })
    }

    /// Makes the kernel's tables equal to `policy`, live: what did not change is not touched, and each network's
    /// port scope changes in one step.
    ///
    /// # Errors
    /// [`EbpfError::TooMany`] before anything changed; a map error may leave the change half done, on the closed side.
    pub fn apply(&mut self, policy: &Policy) -> Result<(), EbpfError> {
        let wanted = Wanted::from_policy(policy)?;
        self.maps.apply(&mut self.wanted, wanted)?;
        self.follow_devices()
    }

    /// Keeps mesh addresses off another interface of the node, in both directions.
    ///
    /// # Errors
    /// [`EbpfError::Attach`], for example where the interface has gone.
    pub fn guard(&mut self, interface: &str) -> Result<(), EbpfError> {
        // Either closes a direction of its own, whatever becomes of the other.
        let barrier = self.attach(Program::Barrier, interface);
        self.attach(Program::Guard, interface).and(barrier)
    }

    /// Removes the guard of an interface; not an error where there is none.
    ///
    /// # Errors
    /// [`EbpfError::PinRoot`] where the pin can't be removed.
    pub fn unguard(&mut self, interface: &str) -> Result<(), EbpfError> {
        self.detach(Program::Guard, interface)?;
        self.detach(Program::Barrier, interface)
    }

    /// Packets per reason since the maps were made, summed over CPUs.
    ///
    /// # Errors
    /// [`EbpfError::Map`]
    pub fn counters(&self) -> Result<[u64; Reason::COUNT], EbpfError> {
        let mut packets = [0; Reason::COUNT];
        for (slot, (_, counter)) in packets.iter_mut().zip(self.detailed_counters()?.1) {
            *slot = counter.packets;
        }
        Ok(packets)
    }

    /// Name, runs and time of all runs of each program; zeros while the kernel doesn't count
    /// (`kernel.bpf_stats_enabled`).
    pub fn costs(&self) -> Vec<(String, u64, Duration)> {
        let cost = |(name, program): (&str, &aya::programs::Program)| {
            let info = program.info().ok()?;
            Some((name.to_owned(), info.run_count(), info.run_time()))
        };
        self.ebpf.programs().filter_map(cost).collect()
    }

    /// Packets and bytes: of everything seen, and of each reason. The first is the sum of the others.
    ///
    /// # Errors
    /// [`EbpfError::Map`]
    pub fn detailed_counters(&self) -> Result<(Counter, Vec<(Reason, Counter)>), EbpfError> {
        self.maps.counters()
    }

    /// The drop events; the first call takes them, later ones get `None`.
    pub fn events(&mut self) -> Option<Events> {
        self.maps.events.take().map(Events)
    }

    /// The program that chooses a queue of the mesh interface, as `steering` says.
    ///
    /// # Errors
    /// [`EbpfError::Program`] where the kernel refuses it.
    pub fn steering(&mut self, steering: Steering) -> Result<&SocketFilter, EbpfError> {
        const NAME: &str = "mesh_steer";
        self.maps.workers.set(0, steering, 0).map_err(of("WORKERS"))?;
        let failed = EbpfError::program(NAME);
        let found = self.ebpf.program_mut(NAME).ok_or(EbpfError::Object { what: NAME })?;
        let filter: &mut SocketFilter = found.try_into().map_err(&failed)?;
        if filter.fd().is_err() {
            filter.load().map_err(&failed)?;
        }
        Ok(filter)
    }

    /// Changes with each flow that becomes bulk.
    pub fn promoted(&self) -> Option<KernelWord> {
        maps::promoted(&self.ebpf)
    }

    /// A loaded program, for tests that run it without traffic.
    ///
    /// # Errors
    /// [`EbpfError::Object`] where the object lacks it.
    pub fn program(&mut self, program: Program) -> Result<&mut SchedClassifier, EbpfError> {
        classifier(&mut self.ebpf, program)
    }
}

fn classifier(ebpf: &mut Ebpf, program: Program) -> Result<&mut SchedClassifier, EbpfError> {
    let found = ebpf.program_mut(program.name()).ok_or(EbpfError::Object { what: program.name() })?;
    found.try_into().map_err(EbpfError::program(program.name()))
}

/// The kernel's verifier is most of a start, and flows may be waiting: each program is verified by a thread of its own.
fn load_programs(ebpf: &mut Ebpf) -> Result<(), EbpfError> {
    let of_name = |name: &str| Program::ALL.iter().position(|program| program.name() == name);
    let mut loaded: Vec<_> = std::thread::scope(|scope| {
        let known = ebpf.programs_mut().filter_map(|(name, program)| Some((of_name(name)?, program)));
        let threads: Vec<_> =
            known.map(|(at, program)| (at, scope.spawn(move || load(at, program)))).collect();
        threads.into_iter().map(|(at, thread)| (at, thread.join())).collect()
    });
    if loaded.len() < Program::ALL.len() {
        return Err(EbpfError::Object { what: "one of the programs" });
    }
    // The same one is named each time where several are refused.
    loaded.sort_by_key(|(at, _)| *at);
    loaded.into_iter().try_for_each(|(_, result)| {
        result.unwrap_or(Err(EbpfError::Object { what: "a program that the kernel answers for" }))
    })
}

fn load(at: usize, program: &mut aya::programs::Program) -> Result<(), EbpfError> {
    let name = Program::ALL.get(at).map_or("", |program| program.name());
    let classifier: &mut SchedClassifier = program.try_into().map_err(EbpfError::program(name))?;
    classifier.load().map_err(EbpfError::program(name))
}

/// The object with its maps, and whether those of the flows are new.
fn load_object(pins: Option<&PinRoot>) -> Result<(Ebpf, bool), EbpfError> {
    let paths: Vec<(&str, PathBuf)> = pins.map(PinRoot::map_paths).transpose()?.unwrap_or_default();
    let forgotten = !pins.is_some_and(|pins| pins.path("FLOWS").exists());
    let mut loader = EbpfLoader::new();
    for (name, path) in &paths {
        loader.map_pin_path(name, path.as_path());
    }
    let ebpf = loader.load(OBJECT).map_err(|error| EbpfError::object(&error))?;
    Ok((ebpf, forgotten))
}

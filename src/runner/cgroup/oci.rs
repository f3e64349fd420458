//! Limits in the form of the [runtime specification](https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#control-groups),
//! for runtimes that make the cgroup themselves.

use rootling_backends::Result;
use serde::Serialize;

use super::limits::{IoKind, Limits, UNLIMITED};
use super::make::device_numbers;
use super::settings::{PERIOD_US, memory_and_swap, quota_us};

/// `linux.resources` but for devices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// Memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// Processors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// Processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<Pids>,
    /// Disks.
    #[serde(rename = "blockIO", skip_serializing_if = "Option::is_none")]
    pub block_io: Option<BlockIo>,
}

/// `linux.resources.memory`, in bytes; -1 is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<i64>,
    /// The most together with swap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap: Option<i64>,
    /// What is not taken away when the host runs short.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reservation: Option<i64>,
}

/// `linux.resources.cpu`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Cpu {
    /// The share where they are short.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shares: Option<u64>,
    /// Microseconds in each period.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota: Option<u64>,
    /// Microseconds of a period.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub period: Option<u64>,
    /// Which.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<String>,
    /// Which memory nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mems: Option<String>,
}

/// `linux.resources.pids`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pids {
    /// The most; -1 is no limit.
    pub limit: i64,
}

/// `linux.resources.blockIO`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockIo {
    /// The share where they are busy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u64>,
    /// Bytes read in a second.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub throttle_read_bps_device: Vec<Throttle>,
    /// Bytes written in a second.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub throttle_write_bps_device: Vec<Throttle>,
    /// Reads in a second.
    #[serde(rename = "throttleReadIOPSDevice", skip_serializing_if = "Vec::is_empty")]
    pub throttle_read_iops_device: Vec<Throttle>,
    /// Writes in a second.
    #[serde(rename = "throttleWriteIOPSDevice", skip_serializing_if = "Vec::is_empty")]
    pub throttle_write_iops_device: Vec<Throttle>,
}

/// How fast a disk may be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Throttle {
    /// The disk's number, first part.
    pub major: u64,
    /// The disk's number, second part.
    pub minor: u64,
    /// How much in a second.
    pub rate: u64,
}

impl Limits {
    /// Returns the limits as a runtime configuration says them. Looks up the numbers of disks, and nothing else of the machine.
    pub fn oci(&self) -> Result<Resources> {
        // More than fits is no limit either; -1 says so.
        let bytes = |bytes: u64| if bytes == UNLIMITED { -1 } else { i64::try_from(bytes).unwrap_or(-1) };
        let memory = Memory {
            limit: self.memory_bytes.map(bytes),
            swap: memory_and_swap(self).map(bytes),
            reservation: self.memory_reservation_bytes.map(bytes),
        };
        let cpu = Cpu {
            shares: self.cpu_shares,
            quota: self.cpu_thousandths.map(quota_us),
            period: self.cpu_thousandths.map(|_| PERIOD_US),
            cpus: self.cpuset_cpus.clone(),
            mems: self.cpuset_mems.clone(),
        };
        let block_io = self.block_io()?;
        Ok(Resources {
            memory: (memory != Memory::default()).then_some(memory),
            cpu: (cpu != Cpu::default()).then_some(cpu),
            pids: self.pids.map(|limit| Pids { limit: bytes(limit) }),
            block_io: (block_io != BlockIo::default()).then_some(block_io),
        })
    }

    fn block_io(&self) -> Result<BlockIo> {
        let mut block_io = BlockIo { weight: self.io_weight, ..BlockIo::default() };
        for (rate, (major, minor)) in self.io_rates.iter().zip(device_numbers(self)?) {
            let list = match rate.what {
                IoKind::ReadBytes => &mut block_io.throttle_read_bps_device,
                IoKind::WriteBytes => &mut block_io.throttle_write_bps_device,
                IoKind::ReadOperations => &mut block_io.throttle_read_iops_device,
                IoKind::WriteOperations => &mut block_io.throttle_write_iops_device,
            };
            list.push(Throttle { major, minor, rate: rate.per_second });
        }
        Ok(block_io)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_said_in_the_specifications_units() {
        let limits = Limits {
            memory_bytes: Some(64 << 20),
            cpu_thousandths: Some(1500),
            pids: Some(UNLIMITED),
            io_weight: Some(500),
            ..Limits::default()
        };
        let json = serde_json::to_value(limits.oci().unwrap()).unwrap();
        let expected = serde_json::json!({
            "memory": { "limit": 67_108_864, "swap": 134_217_728 },
            "cpu": { "quota": 150_000, "period": 100_000 },
            "pids": { "limit": -1 },
            "blockIO": { "weight": 500 },
        });
        assert_eq!(json, expected);
        let score = Limits { oom_score_adj: Some(5), ..Limits::default() };
        assert_eq!(score.oci().unwrap(), Resources::default());
        let swap = Limits { memory_swap_bytes: Some(UNLIMITED), ..limits };
        assert_eq!(swap.oci().unwrap().memory.unwrap().swap, Some(-1));
    }
}

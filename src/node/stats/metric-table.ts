/**
 * The metrics of ListPodSandboxMetrics: the 56 that critest expects, with cAdvisor's names and units and containerd's
 * labels, so that dashboards work with either runtime. CRI's values are integers, so seconds are truncated.
 */
import type { DiskReading, FilesystemReading } from '../../workers/stats/disk.ts';
import type { InterfaceReading } from '../../workers/stats/network.ts';
import type { ProcessesReading } from '../../workers/stats/processes.ts';
import type { Psi } from '../../workers/stats/psi.ts';
import type { CgroupReading } from '../../workers/stats/reading.ts';

/** Labels of every metric, which precede the metric's own. */
export const BASE_LABELS = ['pod', 'namespace', 'container', 'id', 'image'] as const;

export interface ContainerFacts {
  cgroup: CgroupReading;
  processes?: ProcessesReading;
  filesystem?: FilesystemReading;
  disk?: DiskReading;
  /** Nanoseconds since the epoch. */
  startedAt: bigint;
  cpuShares?: bigint;
}

/** One value of a metric. */
export interface MetricValue {
  /** Values of the metric's own labels, in the order of the rule's `labels`. */
  labels: string[];
  value: bigint;
  /** Nanoseconds since the epoch; set when the value is older than the call. */
  timestamp?: bigint;
}

export interface MetricRule<Facts> {
  help: string;
  type: 'counter' | 'gauge';
  /** The metric's own labels, which follow {@link BASE_LABELS}. */
  labels: readonly string[];
  /** The values; empty when the kernel does not report them. */
  values: (facts: Facts) => MetricValue[];
}

type ReadValue<Facts> = (facts: Facts) => bigint | undefined;

const NS_PER_SECOND = 1_000_000_000n;
const seconds = (ns: bigint | undefined) => (ns === undefined ? undefined : ns / NS_PER_SECOND);

function one(type: 'counter' | 'gauge', help: string, value: ReadValue<ContainerFacts>): MetricRule<ContainerFacts> {
  return {
    help,
    type,
    labels: [],
    values: (facts) => {
      const found = value(facts);
      return found === undefined ? [] : [{ labels: [], value: found }];
    },
  };
}
const counter = (help: string, value: ReadValue<ContainerFacts>) => one('counter', help, value);
const gauge = (help: string, value: ReadValue<ContainerFacts>) => one('gauge', help, value);

/** A container's I/O by device. */
function io(help: string, operation: 'Read' | 'Write', field: 'bytes' | 'requests'): MetricRule<ContainerFacts> {
  return {
    help,
    type: 'counter',
    labels: ['device'],
    values: ({ cgroup }) =>
      cgroup.devices.map(({ device, operations }) => ({
        labels: [device],
        value: operations.find((other) => other.operation === operation)?.[field] ?? 0n,
      })),
  };
}

/** A gauge of the file system under the writable layer. */
function fs(
  help: string,
  read: (filesystem: FilesystemReading, disk: DiskReading | undefined) => Omit<MetricValue, 'labels'> | undefined,
): MetricRule<ContainerFacts> {
  return {
    help,
    type: 'gauge',
    labels: ['device'],
    values: ({ filesystem, disk }) => {
      const found = filesystem && read(filesystem, disk);
      return found ? [{ labels: [filesystem.device], ...found }] : [];
    },
  };
}

function hugetlb(help: string, field: 'usage' | 'peak'): MetricRule<ContainerFacts> {
  return {
    help,
    type: 'gauge',
    labels: ['pagesize'],
    values: ({ cgroup }) =>
      cgroup.hugetlb.flatMap((page) => {
        const value = page[field];
        return value === undefined ? [] : [{ labels: [page.pageSize], value }];
      }),
  };
}

function pressure(help: string, resource: 'cpu' | 'memory' | 'io', kind: keyof Psi): MetricRule<ContainerFacts> {
  return counter(help, ({ cgroup }) => seconds(cgroup.psi[resource]?.[kind].totalNs));
}

export const CONTAINER_METRICS = {
  container_blkio_device_usage_total: {
    help: 'Bytes that the container read from, wrote to and discarded on a block device.',
    type: 'counter',
    labels: ['device', 'major', 'minor', 'operation'],
    // cgroup v1 also counts each byte as Sync or Async and in a Total; these are omitted, so that sums are right on
    // both versions.
    values: ({ cgroup }) =>
      cgroup.devices.flatMap(({ device, major, minor, operations }) =>
        operations
          .filter(({ operation }) => ['Read', 'Write', 'Discard'].includes(operation))
          .map(({ operation, bytes }) => ({
            labels: [device, String(major), String(minor), operation],
            value: bytes,
          })),
      ),
  },
  container_cpu_cfs_periods_total: counter(
    'Enforcement periods of the CPU quota that have passed.',
    ({ cgroup }) => cgroup.cpu?.periods,
  ),
  container_cpu_cfs_throttled_periods_total: counter(
    'Enforcement periods in which the container was throttled.',
    ({ cgroup }) => cgroup.cpu?.throttledPeriods,
  ),
  container_cpu_cfs_throttled_seconds_total: counter(
    'Time for which the container was throttled, in seconds.',
    ({ cgroup }) => seconds(cgroup.cpu?.throttledNs),
  ),
  container_cpu_system_seconds_total: counter('CPU time spent in the kernel, in seconds.', ({ cgroup }) =>
    seconds(cgroup.cpu?.systemNs),
  ),
  container_cpu_usage_seconds_total: counter('CPU time, in seconds.', ({ cgroup }) => seconds(cgroup.cpu?.usageNs)),
  container_cpu_user_seconds_total: counter('CPU time spent in user space, in seconds.', ({ cgroup }) =>
    seconds(cgroup.cpu?.userNs),
  ),
  container_file_descriptors: gauge(
    'Open file descriptors of the container’s processes.',
    ({ processes }) => processes?.descriptors,
  ),
  container_fs_inodes_free: fs('Free inodes of the file system under the writable layer.', ({ inodesFree }) => ({
    value: inodesFree,
  })),
  container_fs_inodes_total: fs('Inodes of the file system under the writable layer.', ({ inodes }) => ({
    value: inodes,
  })),
  container_fs_limit_bytes: fs('Size of the file system under the writable layer.', ({ sizeBytes }) => ({
    value: sizeBytes,
  })),
  container_fs_reads_bytes_total: io('Bytes read from a block device.', 'Read', 'bytes'),
  container_fs_reads_total: io('Read requests to a block device.', 'Read', 'requests'),
  container_fs_usage_bytes: fs(
    'Bytes that the writable layer takes.',
    (_, disk) => disk && { value: disk.usedBytes, timestamp: disk.timestamp },
  ),
  container_fs_writes_bytes_total: io('Bytes written to a block device.', 'Write', 'bytes'),
  container_fs_writes_total: io('Write requests to a block device.', 'Write', 'requests'),
  container_hugetlb_max_usage_bytes: hugetlb('Highest use of huge pages; cgroup v1 alone counts it.', 'peak'),
  container_hugetlb_usage_bytes: hugetlb('Use of huge pages.', 'usage'),
  container_last_seen: gauge('When the container was last seen, in seconds since the epoch.', ({ cgroup }) =>
    seconds(cgroup.timestamp),
  ),
  container_memory_cache: gauge('Page cache.', ({ cgroup }) => cgroup.memory?.cache),
  container_memory_failcnt: counter(
    'How often the use of memory hit the limit.',
    ({ cgroup }) => cgroup.memory?.failures,
  ),
  container_memory_failures_total: {
    help: 'Page faults, by kind, of the container alone and with the cgroups below it.',
    type: 'counter',
    labels: ['failure_type', 'scope'],
    values: ({ cgroup: { memory } }) =>
      memory
        ? [
            { labels: ['pgfault', 'container'], value: memory.ownPageFaults },
            { labels: ['pgfault', 'hierarchy'], value: memory.pageFaults },
            { labels: ['pgmajfault', 'container'], value: memory.ownMajorPageFaults },
            { labels: ['pgmajfault', 'hierarchy'], value: memory.majorPageFaults },
          ]
        : [],
  },
  container_memory_kernel_usage: gauge('Memory that the kernel holds for it.', ({ cgroup }) => cgroup.memory?.kernel),
  container_memory_mapped_file: gauge('Mapped files.', ({ cgroup }) => cgroup.memory?.mappedFile),
  container_memory_max_usage_bytes: gauge(
    'Highest use of memory; on cgroup v2 before kernel 5.19 the present one.',
    ({ cgroup: { memory } }) => memory && (memory.peak ?? memory.usage),
  ),
  container_memory_rss: gauge('Anonymous memory.', ({ cgroup }) => cgroup.memory?.rss),
  container_memory_swap: gauge('Swap in use.', ({ cgroup: { memory } }) => memory && (memory.swap ?? 0n)),
  container_memory_usage_bytes: gauge('Memory in use, page cache included.', ({ cgroup }) => cgroup.memory?.usage),
  container_memory_working_set_bytes: gauge(
    'Memory in use without the page cache that was not touched lately.',
    ({ cgroup }) => cgroup.memory?.workingSet,
  ),
  container_oom_events_total: counter(
    'Processes of the container that the kernel ended for lack of memory.',
    ({ cgroup }) => cgroup.oomKills,
  ),
  container_pressure_cpu_stalled_seconds_total: pressure('Time in which all tasks waited for CPU.', 'cpu', 'full'),
  container_pressure_cpu_waiting_seconds_total: pressure('Time in which a task waited for CPU.', 'cpu', 'some'),
  container_pressure_io_stalled_seconds_total: pressure('Time in which all tasks waited for I/O.', 'io', 'full'),
  container_pressure_io_waiting_seconds_total: pressure('Time in which a task waited for I/O.', 'io', 'some'),
  container_pressure_memory_stalled_seconds_total: pressure(
    'Time in which all tasks waited for memory.',
    'memory',
    'full',
  ),
  container_pressure_memory_waiting_seconds_total: pressure(
    'Time in which a task waited for memory.',
    'memory',
    'some',
  ),
  container_processes: gauge('Processes in the container.', ({ processes }) => processes?.processes),
  container_sockets: gauge('Open sockets of the container’s processes.', ({ processes }) => processes?.sockets),
  container_spec_cpu_period: gauge(
    'Period of the CPU quota, in microseconds.',
    ({ cgroup }) => cgroup.cpuLimits?.periodUs,
  ),
  container_spec_cpu_quota: gauge(
    'CPU quota in a period, in microseconds; absent when there is none.',
    ({ cgroup }) => cgroup.cpuLimits?.quotaUs,
  ),
  container_spec_cpu_shares: gauge(
    'CPU shares.',
    ({ cgroup, cpuShares }) => cgroup.cpuLimits && (cpuShares || cgroup.cpuLimits.shares),
  ),
  container_spec_memory_limit_bytes: gauge(
    'Limit of memory; 0 is none.',
    ({ cgroup: { memory } }) => memory && (memory.limit ?? 0n),
  ),
  container_spec_memory_reservation_limit_bytes: gauge(
    'Memory that is kept for it when memory is short; 0 is none.',
    ({ cgroup: { memory } }) => memory && (memory.reservation ?? 0n),
  ),
  container_spec_memory_swap_limit_bytes: gauge(
    'Limit of memory and swap together; 0 is none.',
    ({ cgroup: { memory } }) => memory && (memory.swapLimit ?? 0n),
  ),
  container_start_time_seconds: gauge('When the container was started, in seconds since the epoch.', ({ startedAt }) =>
    seconds(startedAt),
  ),
  container_threads: gauge(
    'Threads in the container.',
    ({ cgroup, processes }) => cgroup.pids?.threads ?? processes?.threads,
  ),
  container_threads_max: gauge(
    'Threads that may be in the container; 0 means no limit.',
    ({ cgroup }) => cgroup.pids?.max ?? 0n,
  ),
  container_ulimits_soft: {
    help: 'Soft limit of the container’s first process; absent when there is none.',
    type: 'gauge',
    labels: ['ulimit'],
    values: ({ processes }) =>
      processes?.maxOpenFiles === undefined ? [] : [{ labels: ['max_open_files'], value: processes.maxOpenFiles }],
  },
} satisfies Record<string, MetricRule<ContainerFacts>>;

function network(help: string, field: Exclude<keyof InterfaceReading, 'name'>): MetricRule<InterfaceReading[]> {
  return {
    help,
    type: 'counter',
    labels: ['interface'],
    values: (interfaces) => interfaces.map((one) => ({ labels: [one.name], value: one[field] })),
  };
}

/** Metrics of the pod, whose containers share the interfaces. */
export const POD_METRICS = {
  container_network_receive_bytes_total: network('Bytes received.', 'rxBytes'),
  container_network_receive_errors_total: network('Errors while receiving.', 'rxErrors'),
  container_network_receive_packets_dropped_total: network('Packets dropped while receiving.', 'rxDropped'),
  container_network_receive_packets_total: network('Packets received.', 'rxPackets'),
  container_network_transmit_bytes_total: network('Bytes sent.', 'txBytes'),
  container_network_transmit_errors_total: network('Errors while sending.', 'txErrors'),
  container_network_transmit_packets_dropped_total: network('Packets dropped while sending.', 'txDropped'),
  container_network_transmit_packets_total: network('Packets sent.', 'txPackets'),
} satisfies Record<string, MetricRule<InterfaceReading[]>>;

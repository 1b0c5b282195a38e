import type { ContainerStats, PodSandboxMetrics, PodSandboxStats } from '../../../proto/gen/cri.ts';
import { explain } from '../../errors.ts';
import type { DiskReading } from '../../workers/stats/disk.ts';
import type { ReadTarget, Sample } from '../../workers/stats.ts';
import { CpuRates } from './cpu-rates.ts';
import { DiskUsage } from './disk-usage.ts';
import { containerMetrics, podMetrics } from './metrics.ts';
import type { ContainerSubject, PodSubject } from './subjects.ts';
import { sumReadings } from './sum.ts';
import { cpuUsage, ioUsage, memoryUsage, networkUsage, swapUsage, uint64 } from './usage.ts';

/** The worker functions that stats need: two handlers of src/workers/stats.ts, called through a pool. */
export interface StatsWorker {
  readStats(input: { targets: ReadTarget[] }): Promise<Sample[]>;
  diskUsage(input: { folder: string }): Promise<DiskReading | undefined>;
}

export interface StatsOptions {
  worker: StatsWorker;
  /** Called for a container, pod or folder that could not be read, for the log; the response omits it. */
  onProblem: (what: string, problem: string) => void;
}

/** Targets per worker call: a long list is spread over the pool's threads, and other calls run in between. */
const BATCH = 64;

/** Stats and metrics of containers and pods, read on request. */
export class Stats {
  readonly #options: StatsOptions;
  readonly #rates = new CpuRates();
  readonly #disk: DiskUsage;

  constructor(options: StatsOptions) {
    this.#options = options;
    this.#disk = new DiskUsage({
      walk: (folder) => options.worker.diskUsage({ folder }),
      onProblem: (folder, error) => options.onProblem(folder, explain(error)),
    });
  }

  /**
   * Stats of containers, in order. A container whose cgroup no longer exists, because it has just ended, is omitted.
   */
  async containers(subjects: ContainerSubject[]): Promise<ContainerStats[]> {
    const [samples, disks] = await Promise.all([
      this.#read(subjects.map((subject) => ({ id: subject.id, target: containerTarget(subject, 'usage') }))),
      this.#disks(subjects),
    ]);
    return subjects.flatMap((subject, i) => this.#containerStats(subject, samples[i], disks[i]) ?? []);
  }

  /** Stats of pods and their containers. A pod of which nothing can be read is omitted. */
  async pods(subjects: PodSubject[]): Promise<PodSandboxStats[]> {
    const [samples, disks] = await Promise.all([
      this.#read(subjects.flatMap(podTargets)),
      this.#disks(subjects.flatMap(({ containers }) => containers)),
    ]);
    return subjects.flatMap((subject) => {
      const [own, pause] = samples.splice(0, 2);
      const members = samples.splice(0, subject.containers.length);
      const sizes = disks.splice(0, subject.containers.length);
      const containers = subject.containers.flatMap((one, i) => this.#containerStats(one, members[i], sizes[i]) ?? []);
      return this.#podStats(subject, own, pause, members, containers) ?? [];
    });
  }

  /**
   * Metrics of pods, one pod at a time, so that hundreds of them neither block the caller's thread nor fill its memory.
   */
  async *metrics(subjects: PodSubject[]): AsyncGenerator<PodSandboxMetrics> {
    const pods = Math.max(1, Math.floor(BATCH / 4));
    for (let at = 0; at < subjects.length; at += pods) {
      const slice = subjects.slice(at, at + pods);
      const containers = slice.flatMap((subject) => subject.containers);
      const [samples, disks] = await Promise.all([
        this.#read([
          ...slice.map((subject) => ({ id: subject.id, target: pauseTarget(subject) })),
          ...containers.map((subject) => ({ id: subject.id, target: containerTarget(subject, 'full') })),
        ]),
        this.#disks(containers),
      ]);
      const pauses = samples.splice(0, slice.length);
      for (const [i, subject] of slice.entries()) {
        const members = samples.splice(0, subject.containers.length);
        const sizes = disks.splice(0, subject.containers.length);
        yield {
          podSandboxId: subject.id,
          metrics: podMetrics(subject, pauses[i]?.network ?? []),
          containerMetrics: subject.containers.flatMap((container, j) => {
            const { cgroup, processes, filesystem } = members[j] ?? {};
            if (!cgroup) return [];
            const { startedAt, cpuShares } = container;
            const facts = { cgroup, processes, filesystem, disk: sizes[j], startedAt, cpuShares };
            return [containerMetrics(subject, container, facts)];
          }),
        };
      }
    }
  }

  #containerStats(subject: ContainerSubject, sample?: Sample, disk?: DiskReading): ContainerStats | undefined {
    const cgroup = sample?.cgroup;
    if (!cgroup) return undefined;
    const { timestamp, tickNs, cpu } = cgroup;
    return {
      attributes: subject.attributes,
      cpu: cpuUsage(cgroup, cpu && this.#rates.nanoCores(subject.id, tickNs, cpu.usageNs)),
      memory: memoryUsage(cgroup),
      writableLayer: subject.upperDir
        ? {
            timestamp: disk?.timestamp ?? timestamp,
            fsId: { mountpoint: subject.fsMountpoint },
            usedBytes: uint64(disk?.usedBytes),
            inodesUsed: uint64(disk?.inodes),
          }
        : undefined,
      swap: swapUsage(timestamp, cgroup.memory),
      io: ioUsage(cgroup),
    };
  }

  #podStats(
    subject: PodSubject,
    own: Sample | undefined,
    pause: Sample | undefined,
    members: Sample[],
    containers: ContainerStats[],
  ): PodSandboxStats | undefined {
    const all = pause ? [pause, ...members] : members;
    const cgroup = own?.cgroup ?? sumReadings(all.flatMap((sample) => sample.cgroup ?? []));
    if (!cgroup) return undefined;
    const { timestamp, tickNs, cpu } = cgroup;
    const processes = own?.cgroup ? own.processCount : total(all.map(({ processCount }) => processCount));
    return {
      attributes: subject.attributes,
      linux: {
        cpu: cpuUsage(cgroup, cpu && this.#rates.nanoCores(subject.id, tickNs, cpu.usageNs)),
        memory: memoryUsage(cgroup),
        network: networkUsage(timestamp, pause?.network),
        process: processes === undefined ? undefined : { timestamp, processCount: { value: processes } },
        containers,
        io: ioUsage(cgroup),
      },
      windows: undefined,
    };
  }

  #disks(subjects: ContainerSubject[]): Promise<(DiskReading | undefined)[]> {
    return Promise.all(subjects.map(({ upperDir }) => (upperDir ? this.#disk.of(upperDir) : undefined)));
  }

  /** One sample per target, in order; an empty one where the cgroup no longer exists. */
  async #read(wanted: { id: string; target: ReadTarget }[]): Promise<Sample[]> {
    const batches: (typeof wanted)[] = [];
    for (let at = 0; at < wanted.length; at += BATCH) batches.push(wanted.slice(at, at + BATCH));
    const answers = await Promise.all(
      batches.map((batch) => this.#options.worker.readStats({ targets: batch.map(({ target }) => target) })),
    );
    const samples = answers.flat();
    for (const [i, { id }] of wanted.entries()) {
      const problem = samples[i]?.problem;
      if (problem !== undefined) this.#options.onProblem(id, problem);
    }
    return samples;
  }
}

/** The sum of the defined counts; undefined when all are undefined. */
function total(counts: (bigint | undefined)[]): bigint | undefined {
  const known = counts.filter((count) => count !== undefined);
  return known.length === 0 ? undefined : known.reduce((sum, count) => sum + count, 0n);
}

function containerTarget(subject: ContainerSubject, detail: 'usage' | 'full'): ReadTarget {
  return {
    cgroupsPath: subject.cgroupsPath,
    pid: subject.pid,
    detail,
    folder: detail === 'full' && subject.upperDir ? subject.upperDir : undefined,
  };
}

function pauseTarget({ cgroupsPath, pid, netns }: PodSubject): ReadTarget {
  return { cgroupsPath, pid, netns: netns || undefined, detail: 'usage' };
}

/** The pod's cgroup, its pause process and its containers: two targets, and one for each container. */
function podTargets(subject: PodSubject): { id: string; target: ReadTarget }[] {
  // The root cgroup has the counters of the machine, not of a pod.
  const parent = subject.cgroupParent === '/' ? '' : subject.cgroupParent;
  // Without a pod cgroup the numbers are summed over the containers, so the processes are counted there as well.
  const countProcesses = parent === '';
  return [
    { id: subject.id, target: { cgroupParent: parent, pid: 0, detail: 'usage', countProcesses: true } },
    { id: subject.id, target: { ...pauseTarget(subject), countProcesses } },
    ...subject.containers.map((container) => ({
      id: container.id,
      target: { ...containerTarget(container, 'usage'), countProcesses },
    })),
  ];
}

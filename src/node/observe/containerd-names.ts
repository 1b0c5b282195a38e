/**
 * The same metrics under containerd's names, for dashboards that were made for containerd. Off by default ([metrics]
 * containerd_names). As in containerd, durations are those of successful calls, in buckets from 5 ms to 10 s; slow
 * launches take longer than that, so Sluice's own metrics are more precise.
 * Source of names and meanings: containerd 2.3, internal/cri/server/metrics.go.
 */
import { Counter, Gauge, Histogram, type Registry } from 'prom-client';
import type { JobName, StageName } from '../../stages.ts';
import type { JobRecord } from './job-record.ts';
import { GRPC_CODES, RPC_SERVICES } from './table.ts';

const BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];
const RUNTIME = 'io.containerd.runc.v2';

const JOB_NAMES: Partial<Record<JobName, string>> = {
  RunPodSandbox: 'containerd_cri_sandbox_runtime_create_seconds',
  StopPodSandbox: 'containerd_cri_sandbox_runtime_stop_seconds',
  RemovePodSandbox: 'containerd_cri_sandbox_remove_seconds',
  CreateContainer: 'containerd_cri_container_create_seconds',
  StartContainer: 'containerd_cri_container_start_seconds',
  StopContainer: 'containerd_cri_container_stop_seconds',
  RemoveContainer: 'containerd_cri_container_remove_seconds',
};

const NETWORK = {
  RunPodSandbox: { name: 'containerd_cri_sandbox_create_network_seconds', operation: 'set_up_pod' },
  StopPodSandbox: { name: 'containerd_cri_sandbox_delete_network_seconds', operation: 'tear_down_pod' },
} as const;

/** The stages whose work time containerd measures with one timer. */
const NETWORK_STAGES: readonly StageName[] = ['netns', 'network'];

export class ContainerdNames {
  readonly #jobs = new Map<JobName, Histogram>();
  readonly #network = new Map<string, Histogram>();
  readonly #operations: Counter;
  readonly #operationErrors: Counter;
  readonly #operationSeconds: Histogram;
  readonly #pulls: Counter;
  readonly #lists = new Map<string, Histogram>();
  readonly #handled: Counter;

  constructor(registry: Registry<typeof Registry.OPENMETRICS_CONTENT_TYPE>, pullsRunning: () => number) {
    const registers = [registry];
    const histogram = (name: string, help: string, labelNames: string[] = []) =>
      new Histogram({ name, help, labelNames, buckets: BUCKETS, registers });
    for (const [job, name] of Object.entries(JOB_NAMES) as [JobName, string][]) {
      const one = histogram(name, `containerd's name for successful ${job} calls.`, ['runtime']);
      one.zero({ runtime: RUNTIME });
      this.#jobs.set(job, one);
    }
    for (const [job, { name }] of Object.entries(NETWORK)) {
      this.#network.set(job, histogram(name, `containerd's name for the network part of ${job}.`));
    }
    for (const [method, kind] of [
      ['ListPodSandbox', 'sandbox'],
      ['ListContainers', 'container'],
    ] as const) {
      this.#lists.set(
        method,
        histogram(`containerd_cri_${kind}_list_seconds`, `containerd's name for ${method} calls.`),
      );
    }
    // containerd itself doubles the suffixes (containerd issue 11550).
    const operations = { labelNames: ['operation_type'], registers };
    this.#operations = new Counter({
      ...operations,
      name: 'containerd_cri_network_plugin_operations_total_total',
      help: "containerd's name for CNI operations.",
    });
    this.#operationErrors = new Counter({
      ...operations,
      name: 'containerd_cri_network_plugin_operations_errors_total_total',
      help: "containerd's name for CNI operations that failed.",
    });
    this.#operationSeconds = histogram(
      'containerd_cri_network_plugin_operations_duration_seconds_seconds',
      "containerd's name for the duration of CNI operations.",
      ['operation_type'],
    );
    for (const { operation } of Object.values(NETWORK)) {
      this.#operations.inc({ operation_type: operation }, 0);
      this.#operationErrors.inc({ operation_type: operation }, 0);
      this.#operationSeconds.zero({ operation_type: operation });
    }
    this.#pulls = new Counter({
      name: 'containerd_cri_sandboxed_image_pulls_total',
      help: "containerd's name for pulls by status.",
      labelNames: ['status'],
      registers,
    });
    for (const status of ['success', 'failure']) this.#pulls.inc({ status }, 0);
    new Gauge({
      name: 'containerd_cri_sandboxed_in_progress_image_pulls_total',
      help: "containerd's name for pulls in flight.",
      registers,
      collect() {
        this.set(pullsRunning());
      },
    });
    this.#handled = new Counter({
      name: 'grpc_server_handled_total',
      help: 'CRI calls that ended, under the name that Go servers use.',
      labelNames: ['grpc_type', 'grpc_service', 'grpc_method', 'grpc_code'],
      registers,
    });
    for (const method of RPC_SERVICES.keys()) this.grpc(method, 0, 0, 0);
  }

  jobEnded(record: JobRecord): void {
    if (record.started === undefined || record.ended === undefined || (record.origin ?? 'call') !== 'call') return;
    if (record.job === 'PullImage') this.#pulls.inc({ status: record.outcome === 'ok' ? 'success' : 'failure' });
    this.#networkEnded(record);
    if (record.outcome === 'ok') {
      this.#jobs.get(record.job)?.observe({ runtime: RUNTIME }, (record.ended - record.started) / 1000);
    }
  }

  grpc(method: string, code: number, seconds: number, count = 1): void {
    const service = RPC_SERVICES.get(method);
    if (!service) return;
    const streams = method.startsWith('Stream') || method === 'GetContainerEvents';
    const labels = {
      grpc_type: streams ? 'server_stream' : 'unary',
      grpc_service: service,
      grpc_method: method,
      grpc_code: GRPC_CODES[code as keyof typeof GRPC_CODES] ?? 'Unknown',
    };
    this.#handled.inc(labels, count);
    if (count > 0 && code === 0) this.#lists.get(method)?.observe(seconds);
  }

  #networkEnded({ job, stages }: JobRecord): void {
    if (job !== 'RunPodSandbox' && job !== 'StopPodSandbox') return;
    const done = stages.filter(({ stage, started }) => NETWORK_STAGES.includes(stage) && started !== undefined);
    const network = done.find(({ stage }) => stage === 'network');
    if (!network) return; // a pod on the host network has no such stage
    const operation = { operation_type: NETWORK[job].operation };
    const seconds = (of: typeof done) =>
      of.reduce((sum, { started = 0, ended = started }) => sum + ended - started, 0) / 1000;
    this.#operations.inc(operation);
    if (network.error !== undefined) this.#operationErrors.inc(operation);
    else {
      this.#operationSeconds.observe(operation, seconds([network]));
      this.#network.get(job)?.observe(seconds(done));
    }
  }
}

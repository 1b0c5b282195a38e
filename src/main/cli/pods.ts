/** `sluice pods` and `sluice ps`: what runs on this node, for those without crictl. */
import {
  type Container,
  ContainerState,
  type PodSandbox,
  type PodSandboxMetadata,
  PodSandboxState,
} from '../../../proto/gen/cri.ts';
import { duration } from '../../node/observe/gantt.ts';
import type { Cri } from '../cri/client.ts';
import { criClient } from './client.ts';
import { type Command, EXIT, optionText, printJson, printTable } from './command.ts';

const SHORT_ID = 13;
const ALL = { flags: '-a, --all', description: 'also those that do not run' };
const QUIET = { flags: '-q, --quiet', description: 'print ids only' };
const NAMESPACE = { flags: '-n, --namespace <name>', description: 'only of this Kubernetes namespace' };

export const PODS: Command = {
  name: 'pods',
  summary: 'list pods',
  options: [ALL, QUIET, NAMESPACE],
  peers: ['cri'],
  json: true,
  async run(call) {
    using cri = await criClient(call);
    const namespace = optionText(call, 'namespace');
    const { items } = await cri.listPodSandbox();
    const pods = items
      .filter(({ state, metadata }) => {
        const wanted = call.options.all || state === PodSandboxState.SANDBOX_READY;
        return wanted && (namespace === undefined || metadata?.namespace === namespace);
      })
      .sort((a, b) => Number(b.createdAt - a.createdAt));
    if (call.options.json) printJson(call.out, pods.map(podView));
    else if (call.options.quiet) for (const { id } of pods) call.out.write(`${id}\n`);
    else {
      printTable(
        call.out,
        ['POD', 'AGE', 'STATE', 'NAME', 'NAMESPACE', 'ATTEMPT', 'RUNTIME'],
        pods.map((pod) => [
          pod.id.slice(0, SHORT_ID),
          age(pod.createdAt),
          podState(pod),
          pod.metadata?.name ?? '',
          pod.metadata?.namespace ?? '',
          pod.metadata?.attempt ?? 0,
          pod.runtimeHandler || '(default)',
        ]),
      );
    }
    return EXIT.ok.status;
  },
};

export const PS: Command = {
  name: 'ps',
  summary: 'list containers',
  options: [ALL, QUIET, NAMESPACE, { flags: '-p, --pod <pod>', description: 'only of this pod', complete: 'pod' }],
  peers: ['cri'],
  json: true,
  async run(call) {
    using cri = await criClient(call);
    const namespace = optionText(call, 'namespace');
    const pod = optionText(call, 'pod');
    const [{ containers }, { items }] = await Promise.all([cri.listContainers(), cri.listPodSandbox()]);
    const pods = new Map(items.map((one) => [one.id, one]));
    const chosen = containers
      .map((container) => ({ container, pod: pods.get(container.podSandboxId) }))
      .filter(
        (one) =>
          (call.options.all || one.container.state === ContainerState.CONTAINER_RUNNING) &&
          (namespace === undefined || one.pod?.metadata?.namespace === namespace) &&
          (pod === undefined || (one.pod !== undefined && isPod(one.pod, pod))),
      )
      .sort((a, b) => Number(b.container.createdAt - a.container.createdAt));
    if (call.options.json) printJson(call.out, chosen.map(containerView));
    else if (call.options.quiet) for (const { container } of chosen) call.out.write(`${container.id}\n`);
    else {
      printTable(
        call.out,
        ['CONTAINER', 'AGE', 'STATE', 'NAME', 'ATTEMPT', 'POD', 'IMAGE'],
        chosen.map(({ container, pod: of }) => [
          container.id.slice(0, SHORT_ID),
          age(container.createdAt),
          containerState(container.state),
          container.metadata?.name ?? '',
          container.metadata?.attempt ?? 0,
          fullName(of?.metadata),
          container.image?.userSpecifiedImage || container.image?.image || container.imageRef,
        ]),
      );
    }
    return EXIT.ok.status;
  },
};

/** The container that is meant by an id, the beginning of one, a name, or pod/name; of several the newest that runs. */
export async function findContainer(cri: Cri, text: string): Promise<Container | undefined> {
  const [{ containers }, { items }] = await Promise.all([cri.listContainers(), cri.listPodSandbox()]);
  const byId = containers.filter(({ id }) => id.startsWith(text));
  if (byId.length === 1) return byId[0];
  const [name = '', pod] = text.split('/').reverse();
  const running = ({ state }: Container) => Number(state === ContainerState.CONTAINER_RUNNING);
  return containers
    .filter(({ metadata, podSandboxId }) => {
      if (metadata?.name !== name) return false;
      return pod === undefined || items.some((one) => one.id === podSandboxId && isPod(one, pod));
    })
    .sort((a, b) => running(b) - running(a) || Number(b.createdAt - a.createdAt))[0];
}

/** Is this pod meant by an id, the beginning of one, a name, or namespace/name? */
function isPod({ id, metadata }: PodSandbox, text: string): boolean {
  return id.startsWith(text) || metadata?.name === text || fullName(metadata) === text;
}

export const fullName = (metadata: PodSandboxMetadata | undefined): string =>
  metadata ? `${metadata.namespace}/${metadata.name}` : '';

function age(createdAt: bigint): string {
  return duration(Math.max(0, Date.now() - Number(createdAt / 1_000_000n)));
}

const podState = ({ state }: PodSandbox) => (state === PodSandboxState.SANDBOX_READY ? 'ready' : 'not ready');

const CONTAINER_STATES: Partial<Record<ContainerState, string>> = {
  [ContainerState.CONTAINER_CREATED]: 'created',
  [ContainerState.CONTAINER_RUNNING]: 'running',
  [ContainerState.CONTAINER_EXITED]: 'exited',
};
export const containerState = (state: ContainerState): string => CONTAINER_STATES[state] ?? 'unknown';

function podView(pod: PodSandbox) {
  const { id, metadata, createdAt, labels, runtimeHandler } = pod;
  return { id, ...metadata, state: podState(pod), createdAt: time(createdAt), runtimeHandler, labels };
}

function containerView({ container, pod }: { container: Container; pod: PodSandbox | undefined }) {
  const { id, metadata, image, imageId, state, createdAt, podSandboxId } = container;
  return {
    id,
    ...metadata,
    state: containerState(state),
    createdAt: time(createdAt),
    image: image?.userSpecifiedImage || image?.image,
    imageId,
    podId: podSandboxId,
    pod: fullName(pod?.metadata),
  };
}

export const time = (ns: bigint): string => new Date(Number(ns / 1_000_000n)).toISOString();

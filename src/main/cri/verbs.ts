import { containerStats, listContainerStats, streamContainerStats } from './container-stats.ts';
import { containerStatus } from './container-status.ts';
import { createContainer } from './create-container.ts';
import { execSync } from './exec-sync.ts';
import { getContainerEvents } from './get-container-events.ts';
import { imageFsInfo } from './image-fs-info.ts';
import { imageStatus } from './image-status.ts';
import { listContainers, streamContainers } from './list-containers.ts';
import { listImages, streamImages } from './list-images.ts';
import { listPodSandbox, streamPodSandboxes } from './list-pod-sandbox.ts';
import { listMetricDescriptors, listPodSandboxMetrics, streamPodSandboxMetrics } from './pod-sandbox-metrics.ts';
import { listPodSandboxStats, podSandboxStats, streamPodSandboxStats } from './pod-sandbox-stats.ts';
import { podSandboxStatus } from './pod-sandbox-status.ts';
import { pullImage } from './pull-image.ts';
import { removeContainer } from './remove-container.ts';
import { removeImage } from './remove-image.ts';
import { removePodSandbox } from './remove-pod-sandbox.ts';
import { reopenContainerLog } from './reopen-container-log.ts';
import { runPodSandbox } from './run-pod-sandbox.ts';
import { runtimeConfig, updateRuntimeConfig } from './runtime-config.ts';
import type { Verbs } from './server.ts';
import type { CriServices as Node } from './services.ts';
import { startContainer } from './start-container.ts';
import { status } from './status.ts';
import { stopContainer } from './stop-container.ts';
import { stopPodSandbox } from './stop-pod-sandbox.ts';
import { attach, exec, portForward } from './streaming.ts';
import { updateContainerResources } from './update-container-resources.ts';
import { updatePodSandboxResources } from './update-pod-sandbox-resources.ts';
import { version } from './version.ts';

/** RuntimeService. A method without a verb here answers UNIMPLEMENTED. */
export const runtimeVerbs = (node: Node): Verbs => ({
  unary: {
    version: version(),
    status: status(node),
    runtimeConfig: runtimeConfig(node),
    updateRuntimeConfig: updateRuntimeConfig(node),
    runPodSandbox: runPodSandbox(node),
    stopPodSandbox: stopPodSandbox(node),
    removePodSandbox: removePodSandbox(node),
    podSandboxStatus: podSandboxStatus(node),
    listPodSandbox: listPodSandbox(node),
    createContainer: createContainer(node),
    startContainer: startContainer(node),
    stopContainer: stopContainer(node),
    removeContainer: removeContainer(node),
    listContainers: listContainers(node),
    containerStatus: containerStatus(node),
    updateContainerResources: updateContainerResources(node),
    updatePodSandboxResources: updatePodSandboxResources(node),
    reopenContainerLog: reopenContainerLog(node),
    execSync: execSync(node),
    exec: exec(node),
    attach: attach(node),
    portForward: portForward(node),
    containerStats: containerStats(node),
    listContainerStats: listContainerStats(node),
    podSandboxStats: podSandboxStats(node),
    listPodSandboxStats: listPodSandboxStats(node),
    listMetricDescriptors: listMetricDescriptors(),
    listPodSandboxMetrics: listPodSandboxMetrics(node),
  },
  streams: {
    streamPodSandboxes: streamPodSandboxes(node),
    streamContainers: streamContainers(node),
    streamContainerStats: streamContainerStats(node),
    streamPodSandboxStats: streamPodSandboxStats(node),
    streamPodSandboxMetrics: streamPodSandboxMetrics(node),
    getContainerEvents: getContainerEvents(node),
  },
});

/** ImageService. */
export const imageVerbs = (node: Node): Verbs => ({
  unary: {
    listImages: listImages(node),
    imageStatus: imageStatus(node),
    pullImage: pullImage(node),
    removeImage: removeImage(node),
    imageFsInfo: imageFsInfo(node),
  },
  streams: {
    streamImages: streamImages(node),
  },
});

import type { Node } from '../../pipeline/node.ts';
import { imageFsInfo } from './image-fs-info.ts';
import { imageStatus } from './image-status.ts';
import { listImages, streamImages } from './list-images.ts';
import { listPodSandbox, streamPodSandboxes } from './list-pod-sandbox.ts';
import { podSandboxStatus } from './pod-sandbox-status.ts';
import { pullImage } from './pull-image.ts';
import { removeImage } from './remove-image.ts';
import { removePodSandbox } from './remove-pod-sandbox.ts';
import { runPodSandbox } from './run-pod-sandbox.ts';
import { runtimeConfig, updateRuntimeConfig } from './runtime-config.ts';
import type { Verbs } from './server.ts';
import { status } from './status.ts';
import { stopPodSandbox } from './stop-pod-sandbox.ts';
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
  },
  streams: {
    streamPodSandboxes: streamPodSandboxes(node),
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

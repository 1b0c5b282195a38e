import { createContainer } from './create-container.ts';
import { pullImage } from './pull-image.ts';
import { removeContainer } from './remove-container.ts';
import { removePod } from './remove-pod.ts';
import { runPod } from './run-pod.ts';
import { startContainer } from './start-container.ts';
import { stopContainer } from './stop-container.ts';
import { stopPod } from './stop-pod.ts';

/** Every job's table: metrics, docs and `sluice trace` are made from them. */
export const JOB_TABLES = [
  runPod,
  stopPod,
  removePod,
  createContainer,
  startContainer,
  stopContainer,
  removeContainer,
  pullImage,
];

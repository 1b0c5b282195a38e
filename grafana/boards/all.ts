import { daemon } from './daemon.ts';
import { images } from './images.ts';
import { launches } from './launches.ts';
import { limits } from './limits.ts';
import { network } from './network.ts';
import { reliability } from './reliability.ts';
import { stages } from './stages.ts';

/** All dashboards, in the order in which one reads them when a node is slow. */
export const BOARDS = [launches, stages, limits, network, images, reliability, daemon];

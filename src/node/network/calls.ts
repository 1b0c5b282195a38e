import type { NetHandlers } from '../../workers/net.ts';
import type { Pool } from '../threads/pool.ts';

/** The part of the `net` pool that is used here; tests put something smaller in its place. */
export type NetCalls = Pick<Pool<NetHandlers>, 'call'>;

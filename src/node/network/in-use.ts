import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { hostFiles } from '../../workers/host-paths/read-file.ts';
import type { NetworkConf } from '../../workers/net/types.ts';
import type { Config } from '../config/config.ts';
import { builtinNetwork } from './builtin.ts';
import { loadFolder } from './conf.ts';

/**
 * The network that a daemon of this configuration would attach the next pod to, for programs beside it; undefined where
 * there is none. Sets nothing up. Throws TIMED_OUT when the folder's mount hangs.
 */
export async function networkInUse({ cni, root }: Pick<Config, 'cni' | 'root'>): Promise<NetworkConf | undefined> {
  const { network, files } = await loadFolder(cni.conf_dir, hostFiles);
  if (network || files > 0 || cni.builtin_subnet === '') return network;
  // The subnet is chosen by the daemon's first start.
  if (cni.builtin_subnet === 'auto' && !existsSync(join(root, 'cni/subnet'))) return undefined;
  const { bin_dirs: binDirs, builtin_subnet: subnet, in_process: inProcess } = cni;
  return (await builtinNetwork({ root, subnet, binDirs, inProcess })).network;
}

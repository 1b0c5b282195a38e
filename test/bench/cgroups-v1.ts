/** crun refuses hosts with cgroup v1 that have a v2 hierarchy with controllers beside it, as this machine does. */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';

const UNIFIED = '/sys/fs/cgroup/unified';
/** Set in the run that has no v2 hierarchy. */
const MARK = 'SLUICE_BENCH_CGROUPS_V1';

/**
 * Runs this program once more, with whatever it starts, in a mount namespace of its own without the v2 hierarchy;
 * returns that run's status. A tmpfs in its place takes the folders that crun makes there all the same. Undefined in
 * that run itself, and where there is nothing to hide.
 */
export function withoutUnified(): number | undefined {
  if (process.env[MARK] !== undefined || !existsSync(`${UNIFIED}/cgroup.procs`)) return undefined;
  const script = `umount -l ${UNIFIED} && mount -t tmpfs -o mode=755 sluice-bench ${UNIFIED} && exec "$@"`;
  const program = [process.execPath, ...process.execArgv, ...process.argv.slice(1)];
  const args = ['--mount', '--propagation', 'private', 'sh', '-c', script, 'sh', ...program];
  const { status, error } = spawnSync('unshare', args, { stdio: 'inherit', env: { ...process.env, [MARK]: '1' } });
  if (error) throw error;
  return status ?? 1;
}

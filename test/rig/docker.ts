/**
 * The demo beside a docker that runs (test/rig/docker-scenario.ts), in a throw-away copy of this root file system.
 *
 *   node test/rig/docker.ts
 *
 * The first time it builds dockerd from the Go module proxy, which takes some four minutes of CPU; then half a minute.
 */
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { leaveAsFound } from './as-found.ts';
import { built } from './build.ts';
import { skipUnlessRoot } from './needs.ts';
import { privateFolder } from './paths.ts';
import { inThrowAwayRoot } from './throw-away.ts';

const LIMIT_MS = 10 * 60_000;

const missing = skipUnlessRoot('go', 'unshare', 'iptables', 'ip6tables', 'busybox');
if (missing) console.log(`skipped: ${missing}`);
else {
  const needed = ['dockerd', 'containerd-2.4', 'containerd-shim-runc-v2-2.4', 'runc-1.4'] as const;
  const programs: string[] = [];
  for (const name of needed) programs.push(await built(name));
  const packages = privateFolder('sluice-docker');
  writeFileSync(join(packages, 'none'), '');
  await using _found = await leaveAsFound();
  const { code } = await inThrowAwayRoot({
    script: 'test/rig/docker-scenario.ts',
    args: programs,
    packages,
    address: '192.0.2.2',
    timeoutMs: LIMIT_MS,
    aloud: true,
  });
  rmSync(packages, { recursive: true });
  process.exitCode = code === 0 ? 0 : 1;
}

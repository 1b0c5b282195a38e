/** Bytes through a daemon's streams, with crictl as the client for both daemons. */
import { spawn } from 'node:child_process';
import { connect } from 'node:net';
import { built } from '../rig/build.ts';
import type { RigDaemon } from '../rig/daemon.ts';
import { freePort, waitFor } from '../rig/proc.ts';

export const MIB = 2 ** 20;

/** MiB per second through `crictl exec -i ID cat`: the same client for both daemons, in and out. */
export async function execThroughput(daemon: RigDaemon, container: string, mib: number): Promise<number> {
  // Refused before crictl, whose words about a missing call are hard to tell from others.
  await daemon.cri.exec({ containerId: container, cmd: ['cat'], stdin: true, stdout: true });
  const endpoint = `unix://${daemon.socket}`;
  const crictl = await built('crictl');
  const began = performance.now();
  const child = spawn(crictl, ['-r', endpoint, '-i', endpoint, 'exec', '-i', container, 'cat'], {
    stdio: ['pipe', 'pipe', 'ignore'],
  });
  const block = Buffer.alloc(MIB, 'x');
  let received = 0;
  child.stdout.on('data', (chunk: Buffer) => {
    received += chunk.length;
  });
  const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
  for (let i = 0; i < mib; i++) {
    if (!child.stdin.write(block)) {
      const drained = new Promise((resolve) => child.stdin.once('drain', resolve));
      await Promise.race([drained, ended]);
    }
  }
  child.stdin.end();
  const code = await ended;
  if (code !== 0 || received !== mib * MIB) {
    throw new Error(`exec cat gave back ${received} of ${mib * MIB} bytes, status ${code}`);
  }
  return mib / ((performance.now() - began) / 1000);
}

/** MiB per second out of a port of the pod, through `crictl port-forward`. */
export async function forwardThroughput(daemon: RigDaemon, pod: string, mib: number): Promise<number> {
  await daemon.cri.portForward({ podSandboxId: pod, port: [7000] });
  const endpoint = `unix://${daemon.socket}`;
  const port = await freePort();
  const child = spawn(await built('crictl'), ['-r', endpoint, '-i', endpoint, 'port-forward', pod, `${port}:7000`], {
    stdio: 'ignore',
  });
  const ended = new Promise((resolve) => child.once('close', resolve));
  try {
    return await waitFor('the forwarded port', 10_000, () => receive(port, mib));
  } finally {
    child.kill('SIGTERM');
    await ended;
  }
}

function receive(port: number, mib: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1');
    let received = 0;
    let began = 0;
    socket.on('data', (chunk: Buffer) => {
      if (began === 0) began = performance.now();
      received += chunk.length;
      if (received < mib * MIB) return;
      resolve(mib / ((performance.now() - began) / 1000));
      socket.destroy();
    });
    socket.once('error', reject);
    socket.once('close', () => reject(new Error(`the port closed after ${received} bytes`)));
  });
}

/** What the daemon says to systemd, heard at the other end of the socket. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { ServiceManager } from '../../src/main/service-manager.ts';
import { Fd } from '../../src/sys/fd.ts';
import { C, check, libc } from '../../src/sys/libc.ts';

/** A manager's end: everything that was sent to it so far. */
function receiver(path: string) {
  const address = Buffer.alloc(110);
  address.writeUInt16LE(C.AF_UNIX, 0);
  address.write(path, 2);
  const abstract = path.startsWith('@');
  if (abstract) address[2] = 0;
  const flags = C.SOCK_DGRAM | C.SOCK_CLOEXEC | C.SOCK_NONBLOCK;
  const socket = new Fd(check('socket', libc.socket(C.AF_UNIX, flags, 0)));
  check('bind', libc.bind(socket.number, address, 2 + path.length + (abstract ? 0 : 1)), path);
  return {
    [Symbol.dispose]: () => socket[Symbol.dispose](),
    heard() {
      const all: string[] = [];
      const buffer = Buffer.alloc(4096);
      for (;;) {
        const length = Number(libc.read(socket.number, buffer, buffer.length));
        if (length <= 0) return all;
        all.push(buffer.toString('utf8', 0, length));
      }
    },
  };
}

function inFolder<T>(work: (path: string) => T): T {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-notify-'));
  try {
    return work(join(folder, 'notify'));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

test('ready, status, reload and stop are sent as the protocol has them, and no child sees the variables', () =>
  inFolder((path) => {
    using systemd = receiver(path);
    const env = { NOTIFY_SOCKET: path, LISTEN_FDNAMES: 'x', HOME: '/root' };
    using manager = new ServiceManager(env);
    assert.deepEqual(env, { HOME: '/root' });
    assert.equal(manager.present, true);
    manager.status('starting');
    manager.status('starting');
    manager.ready(() => '3 pods');
    manager.status('3 pods');
    manager.status('4 pods');
    void manager.reload(() => {});
    manager.stopping();
    const heard = systemd.heard();
    assert.deepEqual(heard.slice(0, 3), ['STATUS=starting', 'READY=1\nSTATUS=3 pods', 'STATUS=4 pods']);
    assert.match(heard[3] ?? '', /^RELOADING=1\nMONOTONIC_USEC=\d+$/);
    assert.match(heard.find((text) => text.startsWith('STOPPING')) ?? '', /^STOPPING=1\nSTATUS=/);
  }));

test('an abstract address works too', () => {
  const path = `@sluice-test-${process.pid}`;
  using systemd = receiver(path);
  using manager = new ServiceManager({ NOTIFY_SOCKET: path });
  manager.ready(() => 'up');
  assert.deepEqual(systemd.heard(), ['READY=1\nSTATUS=up']);
});

test('the watchdog is fed from the event loop, thrice in its limit, and not before the daemon is ready', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-notify-'));
  try {
    const path = join(folder, 'notify');
    using systemd = receiver(path);
    const env = { NOTIFY_SOCKET: path, WATCHDOG_USEC: '150000', WATCHDOG_PID: String(process.pid) };
    using manager = new ServiceManager(env);
    await sleep(120);
    assert.deepEqual(systemd.heard(), []);
    manager.ready(() => 'up');
    await sleep(400);
    const fed = systemd.heard().filter((text) => text === 'WATCHDOG=1').length;
    assert.ok(fed >= 3 && fed <= 9, `${fed} times in 400 ms with a limit of 150`);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('what was meant for another process is not taken', () => {
  const env = { LISTEN_FDS: '1', LISTEN_PID: '1', WATCHDOG_USEC: '1000', WATCHDOG_PID: '1' };
  using manager = new ServiceManager(env);
  assert.equal(manager.listener, undefined);
  assert.deepEqual(env, {});
});

test('outside a unit nothing is sent; a socket that leads nowhere is an error at the start', () => {
  using manager = new ServiceManager({});
  manager.ready(() => 'up');
  manager.stopping();
  assert.equal(manager.present, false);
  assert.throws(() => new ServiceManager({ NOTIFY_SOCKET: '/nonexistent/notify' }), /connect.*no such file/);
});

test('a manager that reads nothing does not hold the daemon up', () =>
  inFolder((path) => {
    using _systemd = receiver(path);
    const errors: unknown[] = [];
    using manager = new ServiceManager({ NOTIFY_SOCKET: path }, { onError: (error) => errors.push(error) });
    for (let n = 0; n < 2000; n++) manager.status(`${n} pods`);
    assert.ok(errors.length > 0);
    assert.match(String(errors[0]), /resource temporarily unavailable|EAGAIN/);
  }));

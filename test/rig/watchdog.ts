/**
 * The watchdog of sluiced.service in a VM. The workplace stops VMs for minutes while somebody measures, and their
 * clocks go on: systemd then finds that nothing has fed it.
 */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** Gone with the VM, and not taken away by a package. */
const FOLDER = '/run/systemd/system/sluiced.service.d';
const FILE = join(FOLDER, 'rig.conf');

/**
 * Gives the unit an hour, for its start and its end too; counts from the next `systemctl daemon-reload` on, which every
 * package does.
 */
export function patientWatchdog(): void {
  mkdirSync(FOLDER, { recursive: true });
  writeFileSync(FILE, '[Service]\nWatchdogSec=3600\nTimeoutStartSec=3600\nTimeoutStopSec=3600\n');
}

/** The unit's own minute again, after a `systemctl daemon-reload` and a restart. */
export function ownWatchdog(): void {
  rmSync(FILE);
}

/**
 * The tuning plugin as far as it sets sysctls in the pod's namespace. Hardware address, MTU and modes of the link stay
 * with the program.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Json } from '../../json.ts';
import { isObject } from '../../json.ts';
import type { Work } from './call.ts';
import { COMMON, cniArgs, Fields, NotOurs } from './fields.ts';
import { inPod } from './pod-interface.ts';
import { during, Refusal } from './refusal.ts';

const KEYS = [...COMMON, 'sysctl', 'dataDir', 'promisc', 'mac', 'mtu'];
const NET = '/proc/sys/net/';

interface Tuning {
  sysctls: Record<string, string>;
}

/** Throws NotOurs when the configuration changes more than sysctls. */
export function readTuning(conf: Json): Tuning {
  const fields = new Fields(conf, KEYS);
  const runtime = isObject(conf.runtimeConfig) ? conf.runtimeConfig : {};
  const more =
    fields.flag('promisc') || fields.text('mac') !== '' || fields.whole('mtu') !== 0 || runtime.mac !== undefined;
  if (more) throw new NotOurs('more than sysctls');
  return { sysctls: { ...fields.texts('sysctl'), ...cniArgs(fields, ['sysctl']).texts('sysctl') } };
}

export const tuningWork = (tuning: Tuning): Work => ({
  async add(call) {
    if (!call.prevResult) throw new Refusal('Required prevResult missing');
    inPod(call.netns, () => {
      for (const [key, value] of Object.entries(tuning.sysctls)) {
        // IFNAME stands for the pod's interface.
        const path = pathOf(key.replace('IFNAME', call.attachment.ifName));
        during('', () => writeFileSync(path, value));
      }
    });
    return call.prevResult;
  },
  async del() {
    // Sysctls go with the namespace.
  },
  async check(call) {
    if (!call.prevResult) throw new Refusal('Required prevResult missing');
    inPod(call.netns, () => {
      for (const [key, value] of Object.entries(tuning.sysctls)) {
        const path = pathOf(key.replace('IFNAME', call.attachment.ifName));
        const current = during('', () => readFileSync(path, 'latin1')).replace(/\n$/, '');
        if (current !== value) {
          throw new Refusal(`Error: Tuning configured value of ${path} is ${value}, current value is ${current}`);
        }
      }
    });
  },
});

/** Throws Refusal for a key outside of /proc/sys/net, which would not belong to the pod. */
function pathOf(key: string): string {
  const path = join('/proc/sys', key.replaceAll('.', '/'));
  if (!path.startsWith(NET)) throw new Refusal(`invalid net sysctl key: "${key}"`);
  return path;
}

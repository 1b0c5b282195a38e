/**
 * What the kernel has after ADD and DEL is the same whether the plugins run as processes or the worker does their work.
 */
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import type { CniResult, PluginConf } from '../../src/workers/net/types.ts';
import { handlers } from '../../src/workers/net.ts';
import { kernelState, type Lab, openLab, ownNamespace, type PodOptions, readLease, settle, sh } from './network-lab.ts';

ownNamespace();

interface Case {
  plugins: (lab: Lab) => PluginConf[];
  pod?: PodOptions;
}

const CASES: Record<string, Case> = {
  'a bridge with all that it can, two families': {
    plugins: (lab) => [
      {
        type: 'bridge',
        bridge: 'same0',
        isDefaultGateway: true,
        ipMasq: true,
        hairpinMode: true,
        mtu: 1400,
        args: { cni: { mac: '02:11:22:33:44:55' } },
        ipam: lab.ipam([[{ subnet: '10.50.0.0/24', rangeStart: '10.50.0.20' }], [{ subnet: 'fd50::/64' }]], {
          routes: [{ dst: '192.0.2.0/24' }, { dst: '198.51.100.0/24', gw: '10.50.0.9' }, { dst: 'fd51::/64' }],
        }),
      },
    ],
  },
  'several ranges in a set and several sets': {
    plugins: (lab) => [
      {
        type: 'bridge',
        bridge: 'same0',
        isGateway: true,
        forceAddress: true,
        ipam: lab.ipam([
          [{ subnet: '10.51.0.0/29', rangeEnd: '10.51.0.2' }, { subnet: '10.51.1.0/24' }],
          [{ subnet: 'fd52::/112', gateway: 'fd52::9' }],
        ]),
      },
    ],
  },
  'a bridge in promiscuous mode': {
    plugins: (lab) => [
      { type: 'bridge', bridge: 'same0', promiscMode: true, ipam: lab.ipam([[{ subnet: '10.52.0.0/24' }]]) },
    ],
  },
  'a bridge without addresses': { plugins: () => [{ type: 'bridge', bridge: 'same0', mtu: 1300 }] },
  'duplicate address detection': {
    plugins: (lab) => [
      {
        type: 'bridge',
        bridge: 'same0',
        isDefaultGateway: true,
        enabledad: true,
        ipam: lab.ipam([[{ subnet: 'fd54::/64' }]]),
      },
    ],
  },
  'ptp, two families': {
    plugins: (lab) => [
      {
        type: 'ptp',
        ipMasq: true,
        mtu: 1450,
        ipam: lab.ipam([[{ subnet: '10.55.0.0/24' }], [{ subnet: 'fd55::/64' }]], {
          routes: [{ dst: '0.0.0.0/0' }, { dst: '::/0' }],
        }),
      },
    ],
  },
  'sysctls and loopback': {
    plugins: (lab) => [
      { type: 'loopback' },
      { type: 'bridge', bridge: 'same0', ipam: lab.ipam([[{ subnet: '10.56.0.0/24' }]]) },
      { type: 'tuning', sysctl: { 'net.core.somaxconn': '500', 'net.ipv4.conf.IFNAME.arp_notify': '0' } },
    ],
  },
  'an old version of the specification': {
    pod: { cniVersion: '0.3.1' },
    plugins: (lab) => [
      { type: 'bridge', bridge: 'same0', isGateway: true, ipam: lab.ipam([[{ subnet: '10.57.0.0/24' }]]) },
    ],
  },
};

for (const [name, { plugins, pod: options }] of Object.entries(CASES)) {
  test(`the kernel has the same afterwards: ${name}`, async (t) => {
    const seen = [];
    for (const inProcess of [false, true]) seen.push(await once(t, { plugins, pod: { ...options, inProcess } }));
    const [plugin, own] = seen;
    assert.deepEqual(own?.result, plugin?.result, 'the result');
    assert.deepEqual(own?.state, plugin?.state, 'the kernel');
    assert.deepEqual(own?.files, plugin?.files, 'the files of host-local');
    assert.deepEqual(own?.record, plugin?.record, 'the record');
    assert.deepEqual(own?.left, plugin?.left, 'after DEL');
  });
}

async function once(t: TestContext, { plugins, pod: options }: Case) {
  const lab = openLab(t, 'same');
  const pod = await lab.pod(plugins(lab), options);
  const { result } = await handlers.cniAdd(pod.call);
  await settle();
  await settle(pod.netns);
  const state = await kernelState(pod.netns);
  const files = lab.leases().map((file) => [file, readLease(lab, file)]);
  const record = JSON.parse(await sh(`cat ${lab.dir}/cache/results/same-same1-eth0`)) as {
    result: object;
    config: string;
  };
  // The plugins' own CHECK fails for routes without a gateway, for IFNAME in sysctls and without IPAM.
  if (options?.inProcess) await handlers.cniCheck(pod.call);
  await lab.remove(pod);
  for (let waited = 0; (await sh('ip -br link')).includes('veth'); waited += 50) {
    assert.ok(waited < 3000, 'a veth is left');
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const left = {
    leases: lab.leases(),
    records: lab.records(),
    rules: await sh('iptables-save -t nat | grep -c CNI- || true'),
  };
  await sh('for link in same0; do ip link del $link 2>/dev/null; done; true');
  return { result: anonymous(result, lab), state, files, record: anonymous(record.result as CniResult, lab), left };
}

/** A result without what is random in it. */
function anonymous(result: CniResult, { dir }: Lab): unknown {
  const text = JSON.stringify(result, (key, value) =>
    key === 'mac' && !String(value).startsWith('02:11') ? 'random' : value,
  );
  return JSON.parse(text.replaceAll(/veth[0-9a-f]{8}/g, 'veth#').replaceAll(dir, ''));
}

test('the host’s end of a pod’s link has an address that was given to it, so that udev gives it no other', async (t) => {
  const lab = openLab(t, 'given');
  const ipam = lab.ipam([[{ subnet: '10.59.0.0/24' }]]);
  const pod = await lab.pod([{ type: 'bridge', bridge: 'same9', ipam }], { inProcess: true });
  const { result } = await handlers.cniAdd(pod.call);
  const [host] = result.interfaces?.filter(({ name }) => name.startsWith('veth')) ?? [];
  // The machine's /sys is of another namespace.
  const file = `/sys/class/net/${host?.name}`;
  const read = `mount -t sysfs none /sys && cat ${file}/addr_assign_type ${file}/address`;
  assert.equal(await sh(['unshare', '--mount', 'sh', '-c', read]), `3\n${host?.mac}\n`); // NET_ADDR_SET
  await lab.remove(pod, true);
});

test('both ends of a pod’s link have one queue, as the kernel would wait twice to disable others', async (t) => {
  const lab = openLab(t, 'queues');
  for (const type of ['bridge', 'ptp']) {
    const ipam = lab.ipam([[{ subnet: '10.60.0.0/24' }]]);
    const plugin = { type, ...(type === 'bridge' && { bridge: 'same8' }), ipam };
    const pod = await lab.pod([plugin], { inProcess: true });
    const { result } = await handlers.cniAdd(pod.call);
    const host = result.interfaces?.find(({ name }) => name.startsWith('veth'))?.name;
    for (const [name, netns] of [[host], ['eth0', pod.netns]] as const) {
      const [link] = JSON.parse(await sh(`ip -j -d link show ${name}`, netns)) as Record<string, unknown>[];
      assert.deepEqual([link?.num_tx_queues, link?.num_rx_queues], [1, 1], `${name} of ${type}`);
    }
    await lab.remove(pod, true);
  }
});

test('ipv6LinkLocal: false leaves out the IPv6 address of a link whose network gives it none, and what it says', async (t) => {
  const lab = openLab(t, 'quiet');
  const four = { subnet: '10.60.0.0/24' };
  const bridge = { type: 'bridge', bridge: 'quiet0', isDefaultGateway: true };
  const both = [[four], [{ subnet: 'fd60::/64' }]];
  const cases = {
    'as the plugin has it': { plugin: { ...bridge, ipam: lab.ipam([[four]]) }, talks: true },
    quiet: { plugin: { ...bridge, ipv6LinkLocal: false, ipam: lab.ipam([[four]]) }, talks: false },
    'quiet, without addresses': { plugin: { ...bridge, ipv6LinkLocal: false }, talks: false },
    'quiet, with an address of each family': {
      plugin: { ...bridge, ipv6LinkLocal: false, ipam: lab.ipam(both) },
      talks: true,
    },
    'quiet, in a process, which knows nothing of it': {
      plugin: { ...bridge, ipv6LinkLocal: false, ipam: lab.ipam([[four]]) },
      inProcess: false,
      talks: true,
    },
  };
  const pods = [];
  for (const [name, { plugin, talks, ...rest }] of Object.entries(cases)) {
    const pod = await lab.pod([plugin], { inProcess: true, ...rest });
    const { result } = await handlers.cniAdd(pod.call);
    assert.equal(result.interfaces?.length, 3, name);
    pods.push({ name, pod, talks });
  }
  await new Promise((resolve) => setTimeout(resolve, 2500)); // the first solicitation and report come within a second
  for (const { name, pod, talks } of pods) {
    assert.equal((await sh('ip -6 addr show dev eth0 scope link', pod.netns)) !== '', talks, `${name}: the address`);
    const sent = Number(/^Ip6OutRequests\s+(\d+)/m.exec(await sh('cat /proc/net/snmp6', pod.netns))?.[1]);
    assert.equal(sent > 0, talks, `${name}: ${sent} packets`);
    await lab.remove(pod);
  }
});

/**
 * Packets find their way: between pods, to the host, out of the node, back in by host ports; by plugins and in process
 * alike.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { PluginConf } from '../../src/workers/net/types.ts';
import { handlers } from '../../src/workers/net.ts';
import { type Lab, openLab, ownNamespace, type Pod, settle, sh } from './network-lab.ts';

ownNamespace();

const HOST = '198.18.0.1';
const FAR = '198.18.0.2';
const HOST6 = 'fd18::1';
const FAR6 = 'fd18::2';

/** Another machine, behind a link of this one. It knows no way to the pods: only masqueraded packets are answered. */
async function farAway(lab: Lab): Promise<string> {
  const far = `${lab.dir}/far`;
  await handlers.createNetns({ path: far, loopback: true });
  await sh('ip link add near0 type veth peer name far0');
  await sh(`exec 3<${far}; ip link set far0 netns /proc/self/fd/3`);
  await sh(`ip addr add ${HOST}/24 dev near0; ip -6 addr add ${HOST6}/64 dev near0 nodad; ip link set near0 up`);
  await sh(`ip addr add ${FAR}/24 dev far0; ip -6 addr add ${FAR6}/64 dev far0 nodad; ip link set far0 up`, far);
  lab.onClose(async () => {
    await sh('ip link del near0');
    await handlers.removeNetns({ path: far });
  });
  return far;
}

/**
 * Serves one TCP connection in a namespace with the address of whoever connects, and has `from` connect to `to`.
 * Returns the address that the server saw.
 */
async function seenBy(server: string, port: number, from: string | undefined, to: string): Promise<string> {
  const six = to.startsWith('[');
  const serve = `import socket
s = socket.socket(socket.AF_INET6 if ${six ? 'True' : 'False'} else socket.AF_INET)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("", ${port})); s.listen(); s.settimeout(4)
c, who = s.accept(); c.sendall(who[0].encode()); c.close()`;
  const [address, number] = to.split(/:(?=\d+$)/);
  const ask = `import socket, time
for i in range(60):
  try:
    s = socket.create_connection(("${address?.replace(/[[\]]/g, '')}", ${number}), 2); print(s.recv(100).decode()); break
  except ConnectionRefusedError: time.sleep(0.05)`;
  const serving = sh(['python3', '-c', serve], server);
  const seen = (await sh(['python3', '-c', ask], from)).trim();
  await serving;
  return seen;
}

/** One UDP datagram from `from` to a host port; the server in the pod answers with the address that it saw. */
async function seenByUdp(
  server: string,
  port: number,
  from: string | undefined,
  to: [string, number],
): Promise<string> {
  const serve = `import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("", ${port})); s.settimeout(4)
data, who = s.recvfrom(100); s.sendto(who[0].encode(), who)`;
  const ask = `import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("", 40123)) # the same flow each time
s.connect(("${to[0]}", ${to[1]})); s.settimeout(0.2)
for i in range(40):
  try:
    s.send(b"x"); print(s.recv(100).decode()); break
  except (socket.timeout, ConnectionRefusedError): time.sleep(0.02)`;
  const serving = sh(['python3', '-c', serve], server);
  const seen = (await sh(['python3', '-c', ask], from)).trim();
  await serving;
  return seen;
}

const PORTMAP: PluginConf = { type: 'portmap', capabilities: { portMappings: true } };

function bridge(lab: Lab): PluginConf[] {
  const ipam = lab.ipam([[{ subnet: '10.60.0.0/24' }], [{ subnet: 'fd60::/64' }]]);
  return [{ type: 'bridge', bridge: 'pack0', isDefaultGateway: true, ipMasq: true, hairpinMode: true, ipam }, PORTMAP];
}

const MAPPINGS = [
  { hostPort: 8080, containerPort: 80, protocol: 'tcp', hostIP: '' },
  { hostPort: 8053, containerPort: 53, protocol: 'udp', hostIP: '' },
  { hostPort: 8081, containerPort: 81, protocol: 'tcp', hostIP: HOST },
];

async function twoPods(lab: Lab, inProcess: boolean): Promise<[server: Pod, other: Pod]> {
  const server = await lab.pod(bridge(lab), { inProcess, capabilityArgs: { portMappings: MAPPINGS } });
  const other = await lab.pod(bridge(lab), { inProcess });
  for (const pod of [server, other]) await handlers.cniAdd(pod.call);
  for (const place of [undefined, server.netns, other.netns]) await settle(place);
  return [server, other];
}

for (const inProcess of [false, true]) {
  const how = inProcess ? 'in process' : 'plugins';

  test(`pod to pod, to the host, out of the node and back (${how})`, async (t) => {
    const lab = openLab(t, 'pack');
    const far = await farAway(lab);
    const [server, other] = await twoPods(lab, inProcess);
    // Among themselves pods show their own addresses, also to the host.
    assert.equal(await seenBy(server.netns, 80, other.netns, '10.60.0.2:80'), '10.60.0.3');
    assert.equal(await seenBy(server.netns, 80, other.netns, '[fd60::2]:80'), 'fd60::3');
    assert.equal(await seenBy('/proc/self/ns/net', 7080, other.netns, '10.60.0.1:7080'), '10.60.0.3');
    assert.equal(await seenBy(server.netns, 80, undefined, '10.60.0.2:80'), '10.60.0.1');
    // Beyond the node they have its address.
    assert.equal(await seenBy(far, 80, other.netns, `${FAR}:80`), HOST);
    assert.equal(await seenBy(far, 80, other.netns, `[${FAR6}]:80`), HOST6);
    // The pod has learnt its gateway's hardware address, which is the bridge's.
    const [{ address }] = JSON.parse(await sh('ip -j link show pack0')) as [{ address: string }];
    assert.match(await sh('ip neigh show 10.60.0.1', other.netns), new RegExp(`lladdr ${address}`));
    assert.match(await sh('ip neigh show 10.60.0.3'), /dev pack0 lladdr/);
  });

  test(`host ports, from everywhere (${how})`, async (t) => {
    const lab = openLab(t, 'pack');
    const far = await farAway(lab);
    const [server, other] = await twoPods(lab, inProcess);
    assert.equal(await seenBy(server.netns, 80, far, `${HOST}:8080`), FAR, 'from elsewhere, with its own address');
    assert.equal(await seenBy(server.netns, 80, far, `[${HOST6}]:8080`), FAR6);
    assert.equal(await seenBy(server.netns, 80, undefined, '127.0.0.1:8080'), '10.60.0.1', 'from localhost');
    assert.equal(await seenBy(server.netns, 80, undefined, `${HOST}:8080`), HOST, 'from the host');
    assert.equal(await seenBy(server.netns, 80, other.netns, `${HOST}:8080`), '10.60.0.1', 'from another pod');
    assert.equal(await seenBy(server.netns, 80, server.netns, `${HOST}:8080`), '10.60.0.1', 'from the pod itself');
    assert.equal(await seenBy(server.netns, 81, far, `${HOST}:8081`), FAR, 'at the one address that is mapped');
    const refused = seenBy(server.netns, 81, undefined, '127.0.0.1:8081');
    assert.equal(await refused.catch(() => 'refused'), 'refused', 'not at others');
    assert.equal(await seenByUdp(server.netns, 53, far, [HOST, 8053]), FAR);
    assert.equal(await seenByUdp(server.netns, 53, undefined, ['127.0.0.1', 8053]), '10.60.0.1');

    // After DEL the port is nobody's, and the next pod can have it, with a flow of the first still in the kernel's
    // table.
    await lab.remove(server);
    const next = await lab.pod(bridge(lab), { inProcess, capabilityArgs: { portMappings: MAPPINGS } });
    await handlers.cniAdd(next.call);
    await settle(next.netns);
    assert.equal(await seenBy(next.netns, 80, far, `${HOST}:8080`), FAR);
    assert.equal(await seenByUdp(next.netns, 53, far, [HOST, 8053]), FAR);
  });

  test(`ptp: pods reach each other by way of the host, and the world with its address (${how})`, async (t) => {
    const lab = openLab(t, 'pack');
    const far = await farAway(lab);
    const ipam = lab.ipam([[{ subnet: '10.61.0.0/24' }]], { routes: [{ dst: '0.0.0.0/0' }] });
    const pods = [await lab.pod([{ type: 'ptp', ipMasq: true, ipam }], { inProcess })];
    pods.push(await lab.pod([{ type: 'ptp', ipMasq: true, ipam }], { inProcess }));
    for (const pod of pods) await handlers.cniAdd(pod.call);
    const [one, two] = pods;
    assert.ok(one && two);
    assert.equal(await seenBy(one.netns, 80, two.netns, '10.61.0.2:80'), '10.61.0.3');
    assert.equal(await seenBy(far, 80, two.netns, `${FAR}:80`), HOST);
  });
}

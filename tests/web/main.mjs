// All of the Web UI against real daemons: `node main.mjs PLAN`, where PLAN is the JSON that tests/web.rs writes.
//
// Owns the order of things. Each part is in a module of its own.

import * as devices from "./devices.mjs";
import * as drops from "./drops.mjs";
import * as edits from "./edits.mjs";
import * as looks from "./looks.mjs";
import * as network from "./network.mjs";
import { Stage, axe, check, plan, step, until } from "./stage.mjs";

const [a, b] = await Promise.all([Stage.open("a"), Stage.open("b")]);
const [first, other] = await Promise.all([a.visit(), b.visit()]);
let shared;

await step("a network is made and its key shown once asked", async () => (shared = await network.mint(first)));
await step("joined by its QR code", () => network.join(other, shared));
const [address] = await a.addresses();
await step("a port is opened and reached", async () => {
  await until("the nodes know each other", () => b.on("ping", "-n", "-c1", "-W1", address));
  check(!(await b.fetches(address)), "reached before it is open");
  await network.openPort(first, 80);
  await until("the service answers", () => b.fetches(address));
});
await step("a device is added and reached", async () => {
  await devices.add(first, plan.probe, plan.device);
  const at = (await a.status()).networks[0].devices.find((device) => device.name === plan.probe).ipv4;
  await until("the device answers", () => b.fetches(at));
});
await step("the peer answers pings", () => network.pingPeer(first, plan.probe));
await step("a port is closed, its drop seen, explained and opened again", async () => {
  await network.closePort(first, 80);
  await until("closed", async () => !(await b.fetches(address)));
  await drops.reopen(first, b, address);
  await drops.ask(first, address);
});
const second = await a.visit();
await step("changes are seen everywhere", () => edits.seenEverywhere(a, first, second));
await step("a conflict is told while editing", () => edits.warned(a, first));
await step("a conflict is told when saving", () => edits.refused(a, second));
await step("nothing is lost by Esc", () => edits.kept(first));
await step("the keyboard alone", () => looks.keyboard(first));
await step("first paint", () => looks.firstPaint(second));
await step("axe and pictures", async () => console.log(`figure: axe finds nothing on ${await looks.pages(first, plan.probe)} views`));
await step("removed again", async () => {
  await devices.remove(first, plan.probe);
  await network.remove(other, "Home");
});
await step("a session that ends leads to the login page", async () => {
  await second.getByRole("button", { name: "More", exact: true }).click();
  await second.getByRole("menuitem", { name: "Log out" }).click();
  await second.getByLabel("Password").waitFor();
  check(!(await second.content()).includes(address), "the page still shows what it knew");
  await second.evaluate(axe);
  await looks.accessible(second, "login");
});
await Promise.all([a.close(), b.close()]);

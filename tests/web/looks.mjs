// How it looks and how soon: pictures of every page in both themes and widths, axe on each, and the time to the first paint.

import { mkdirSync } from "node:fs";
import { axe, check, go, narrow, plan, wide } from "./stage.mjs";

const PAGES = ["Network", "Keys", "Drops", "Health"];
/** What is promised of the first paint on loopback. */
const FIRST_PAINT_MS = 200;

/** Takes pictures and checks each page; yields how many were checked. */
export async function pages(page, peer) {
  mkdirSync(plan.shots, { recursive: true });
  await page.evaluate(axe);
  let checked = 0;
  for (const viewport of [wide, narrow]) {
    await page.setViewportSize(viewport);
    for (const name of PAGES) {
      await go(page, name);
      if (name === "Health") await page.getByText(/checks? in order/).waitFor();
      checked += await both(page, name.toLowerCase(), viewport.width);
    }
    for (const [name, open] of dialogs(page, peer)) {
      await open();
      await page.getByRole("dialog").waitFor();
      checked += await both(page, name, viewport.width);
      await page.keyboard.press("Escape");
      await page.getByRole("dialog").waitFor({ state: "detached" });
    }
  }
  await page.setViewportSize(wide);
  return checked;
}

const dialogs = (page, peer) => [
  ["peer", async () => {
    await go(page, "Network");
    await page.getByRole("link", { name: peer, exact: true }).click();
  }],
  ["edit", async () => {
    await go(page, "Keys");
    await page.getByRole("button", { name: /^Edit ports of/ }).click();
    await page.getByRole("dialog").getByRole("cell", { name: "nginx" }).waitFor();
  }],
  ["new", () => page.getByRole("button", { name: "New network" }).click()],
  ["join", () => page.getByRole("button", { name: "Join with a key" }).click()],
  ["share", async () => {
    await page.getByRole("button", { name: /^Share/ }).first().click();
    await page.getByRole("button", { name: "Show the key" }).click();
    await page.getByRole("img", { name: "QR code of the key" }).waitFor();
  }],
  ["delete", async () => {
    await page.getByRole("button", { name: /^More for/ }).click();
    await page.getByRole("menuitem", { name: "Delete…" }).click();
  }],
  ["devices", async () => {
    await page.getByRole("button", { name: "More", exact: true }).click();
    await page.getByRole("menuitem", { name: "Mesh devices…" }).click();
  }],
  ["drop", async () => {
    await go(page, "Drops");
    await page.getByRole("button", { name: /Port closed/ }).filter({ hasText: "TCP" }).first().click();
  }],
  ["ask", () => page.getByRole("button", { name: "Ask about a packet" }).click()],
];

async function both(page, name, width) {
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
    await page.screenshot({ path: `${plan.shots}/${name}-${colorScheme}-${width}.png`, fullPage: !(await page.getByRole("dialog").count()) });
    await accessible(page, `${name} ${colorScheme} ${width}`);
  }
  return 2;
}

/** axe finds nothing, and nothing sticks out. */
export async function accessible(page, what) {
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  const told = violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => `${node.html} ${node.failureSummary}`).join("\n")}`);
  check(told.length === 0, `axe on ${what}: ${told.join("\n")}`);
  const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  check(over <= 0, `${what} is ${over} pixels too wide`);
}

/** The best of a few loads, without a cache: others use this machine as well. */
export async function firstPaint(page) {
  const client = await page.context().newCDPSession(page);
  await client.send("Network.setCacheDisabled", { cacheDisabled: true });
  const [times, shown] = [[], []];
  for (let load = 0; load < 4; load += 1) {
    await page.reload();
    await page.getByRole("heading", { level: 1 }).waitFor();
    shown.push(await page.evaluate(() => performance.now()));
    times.push(await page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0].startTime));
  }
  const best = Math.min(...times);
  console.log(`figure: first contentful paint after ${Math.round(best)} ms, best of ${times.map(Math.round).join(", ")}; the network is shown after ${Math.round(Math.min(...shown))} ms`);
  check(best <= FIRST_PAINT_MS, `the first paint comes after ${best} ms`);
}

/** The keyboard alone: past the navigation, into a menu and out of it, and focus returns to where it was. */
export async function keyboard(page) {
  await page.reload();
  await page.getByRole("heading", { level: 1 }).waitFor();
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  check(await page.evaluate(() => document.activeElement.id === "main"), "the skip link doesn't skip");
  const more = page.getByRole("button", { name: "More", exact: true });
  await more.focus();
  await page.keyboard.press("Enter");
  await page.getByRole("menu").waitFor();
  for (const key of ["ArrowDown", "ArrowDown", "ArrowDown"]) await page.keyboard.press(key);
  await page.keyboard.press("Enter");
  await page.getByRole("menu").waitFor({ state: "detached" });
  check(await page.evaluate(() => document.documentElement.dataset.theme === "dark"), "the theme isn't chosen by keys");
  check(await more.evaluate((element) => element === document.activeElement), "focus doesn't return");
  await page.evaluate(() => (window.theme.choice = "auto"));
}

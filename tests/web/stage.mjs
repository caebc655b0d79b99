// The stage: browsers inside the hosts' namespaces, the command line beside them, and steps that say how long they took.
//
// Owns how a page is opened and what no page may do: open a dialog by a probe, complain, or load from elsewhere.

import { execFile } from "node:child_process";
import { writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { promisify } from "node:util";

export const plan = JSON.parse(process.argv[2]);
const require = createRequire(`${plan.npm}/`);
const { chromium } = require("playwright-core");
export const axe = require("axe-core").source;
const run = promisify(execFile);

/** Longest wait for anything on a page. */
const PATIENCE_MS = 10_000;
export const wide = { width: 1280, height: 860 };
export const narrow = { width: 360, height: 740 };

export function check(condition, what) {
  if (!condition) throw new Error(what);
}

/** Waits until `probe` yields something. */
export async function until(what, probe) {
  const end = Date.now() + PATIENCE_MS;
  for (;;) {
    const found = await probe().catch(() => null);
    if (found) return found;
    check(Date.now() < end, `not within ${PATIENCE_MS} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Every page that was opened: what they show is told when something fails. */
const open = [];

async function show(page, index) {
  await page.screenshot({ path: `${plan.shots}/failure-${index}.png` }).catch(() => {});
  console.log(await page.locator("dialog, main").last().innerText({ timeout: 500 }).catch(String));
}

/** Runs a part of the test and says how long it took. */
export async function step(what, act) {
  const begin = Date.now();
  try {
    await act();
  } catch (error) {
    await Promise.all(open.map((page, index) => show(page, index)));
    error.message = `${what}: ${error.message}`;
    throw error;
  }
  console.log(`${what}: ${Date.now() - begin} ms`);
}

/** A host of the lab with its browser. */
export class Stage {
  static async open(name) {
    const stage = new Stage();
    Object.assign(stage, plan.hosts[name], { name, complaints: [] });
    const wrapper = join(stage.folder, "browser.sh");
    writeFileSync(wrapper, `#!/bin/sh\nexec ${stage.enter.join(" ")} chromium "$@"\n`, { mode: 0o755 });
    stage.browser = await chromium.launch({ executablePath: wrapper, args: ["--no-sandbox", "--disable-gpu"] });
    return stage;
  }

  /** Runs a program on the host; yields its standard output. */
  async on(program, ...words) {
    const [enter, ...rest] = this.enter;
    return (await run(enter, [...rest, program, ...words])).stdout.trim();
  }

  /** The daemon's command line. */
  cli(...words) {
    return this.on(this.meshhold, ...words, "--config", this.config);
  }

  async status() {
    return JSON.parse(await this.cli("meshlan", "status", "--json"));
  }

  /** This node's addresses in its only network. */
  async addresses() {
    return until(`${this.name} has addresses`, async () => {
      const [network] = (await this.status()).networks;
      return network?.ipv4 && [network.ipv4, network.ipv6];
    });
  }

  /** Whether a page is served at an address. */
  fetches(address) {
    const url = `http://${address.includes(":") ? `[${address}]` : address}/`;
    return this.on("curl", "--silent", "--fail", "--globoff", "--max-time", "1", url).then(
      (text) => text.includes("served"),
      () => false,
    );
  }

  /** A browser of its own, logged in by a link. */
  async visit() {
    const context = await this.browser.newContext({ viewport: wide, reducedMotion: "reduce" });
    context.setDefaultTimeout(PATIENCE_MS);
    const page = await context.newPage();
    open.push(page);
    page.on("dialog", (dialog) => {
      this.complaints.push(`a probe ran: ${dialog.message()}`);
      dialog.dismiss();
    });
    page.on("pageerror", (error) => this.complaints.push(error.stack));
    page.on("console", (message) => {
      // What is answered by 401 or 412 is no error of the page.
      if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) this.complaints.push(message.text());
    });
    await page.goto(await this.cli("web"));
    await page.getByRole("heading", { level: 1, name: "Network" }).waitFor();
    check(!page.url().includes("link="), "the token stands in the address bar");
    return page;
  }

  async close() {
    await this.browser.close();
    check(this.complaints.length === 0, `${this.name}: ${this.complaints.join("\n")}`);
  }
}

/** Goes to a page by its link. */
export async function go(page, name) {
  await page.getByRole("navigation").getByRole("link", { name }).click();
  await page.getByRole("heading", { level: 1, name }).waitFor();
}

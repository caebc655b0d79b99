// Two browsers and the command line change one key: each sees the others' changes, and a conflict loses nothing.

import { check, go, until } from "./stage.mjs";

const port = (page, rule) => page.getByRole("main").getByText(rule, { exact: true });

async function scope(stage) {
  const [key] = JSON.parse(await stage.cli("mgmt-keys", "list", "--json"));
  return key;
}

const allow = (stage, id, ...rules) => stage.cli("mgmt-keys", "edit", id, ...rules.flatMap((rule) => ["--allow", rule]));

/** A change by the command line shows in both browsers, and one of a browser in the other and the command line. */
export async function seenEverywhere(stage, first, second) {
  await Promise.all([go(first, "Keys"), go(second, "Keys")]);
  const { id } = await scope(stage);
  await allow(stage, id, "tcp:80", "udp:5000-5010");
  await Promise.all([port(first, "udp:5000-5010").waitFor(), port(second, "udp:5000-5010").waitFor()]);
  const dialog = await addRow(second, "8443");
  await dialog.getByRole("button", { name: "Save" }).click();
  await port(first, "tcp:8443").waitFor();
  check((await scope(stage)).allow.includes("tcp:8443"), "the command line doesn't see it");
}

async function addRow(page, ports) {
  await page.getByRole("button", { name: /^Edit ports of/ }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByRole("button", { name: "Add port" }).click();
  await dialog.getByRole("textbox", { name: /^Port or range/ }).last().fill(ports);
  return dialog;
}

/** Somebody changes the key while it is edited: that is said before saving, and what was typed stays. */
export async function warned(stage, page) {
  const { id } = await scope(stage);
  const dialog = await addRow(page, "9000");
  await allow(stage, id, "tcp:80", "tcp:7000");
  await dialog.getByRole("alert").getByText("tcp:7000 was opened.").waitFor();
  await dialog.getByRole("alert").getByText("tcp:8443 was closed.").waitFor();
  check((await typed(dialog)).includes("9000"), "what was typed is lost");
  await dialog.getByRole("button", { name: "Load the new state" }).click();
  check((await typed(dialog)).join() === "80,7000", "the new state isn't loaded");
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "detached" });
}

const typed = (dialog) => dialog.getByRole("textbox", { name: /^Port or range/ }).evaluateAll((inputs) => inputs.map((input) => input.value));

/** The change comes between the click and the daemon: refused (412), shown, and mine is saved after a look at it. */
export async function refused(stage, page) {
  const { id } = await scope(stage);
  const dialog = await addRow(page, "9100");
  let answer = null;
  await page.route("**/api/v1/keys/*", async (route) => {
    if (route.request().method() !== "PATCH" || answer) return route.continue();
    await stage.cli("mgmt-keys", "edit", id, "--name", "Renamed");
    const response = await route.fetch();
    answer = response.status();
    return route.fulfill({ response });
  });
  await dialog.getByRole("button", { name: "Save" }).click();
  await dialog.getByRole("alert").getByText(/Renamed/).waitFor();
  check(answer === 412, `answered by ${answer}`);
  check((await typed(dialog)).includes("9100"), "what was typed is lost");
  await dialog.getByRole("button", { name: "Go on with mine" }).click();
  await dialog.getByRole("button", { name: "Save" }).click();
  await dialog.waitFor({ state: "detached" });
  await page.unroute("**/api/v1/keys/*");
  const key = await until("both changes hold", async () => {
    const key = await scope(stage);
    return key.name === "Renamed" && key.allow.includes("tcp:9100") && key;
  });
  check(key.allow.includes("tcp:7000"), "a port that nobody closed is closed");
}

/** What is typed isn't lost by Esc. */
export async function kept(page) {
  const dialog = await addRow(page, "1234");
  await page.keyboard.press("Escape");
  await dialog.getByRole("button", { name: "Keep editing" }).click();
  check((await typed(dialog)).includes("1234"), "Esc lost what was typed");
  await page.keyboard.press("Escape");
  await dialog.getByRole("button", { name: "Discard" }).click();
  await dialog.waitFor({ state: "detached" });
}

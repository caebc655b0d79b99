// A LAN device is added and removed by the sheet behind the kebab menu; the one of the configuration stays.

import { check, plan } from "./stage.mjs";

async function sheet(page) {
  const button = page.getByRole("button", { name: "More", exact: true });
  await button.focus();
  await page.keyboard.press("ArrowDown");
  await page.getByRole("menuitem", { name: "Mesh devices…" }).waitFor();
  await page.keyboard.press("Enter");
  return page.getByRole("dialog", { name: "Mesh devices" });
}

const row = (dialog, name) => dialog.getByRole("listitem").filter({ has: dialog.page().getByRole("heading", { name, exact: true }) });

/** Adds the device with a probe for a name. */
export async function add(page, name, target) {
  const dialog = await sheet(page);
  const configured = row(dialog, plan.configured);
  await configured.getByText("config", { exact: true }).waitFor();
  check((await configured.getByRole("button", { name: /^Remove/ }).count()) === 0, "a device of the file can be removed");
  await dialog.getByLabel("Name").fill(name);
  await dialog.getByLabel("In the LAN").fill("no address");
  await dialog.getByRole("button", { name: "Add device" }).click();
  await dialog.getByRole("alert").waitFor();
  await dialog.getByLabel("In the LAN").fill(target);
  await dialog.getByRole("button", { name: "Add device" }).click();
  await row(dialog, name).getByText("There is a way to it").waitFor();
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "detached" });
}

/** Removes it by two clicks. */
export async function remove(page, name) {
  const dialog = await sheet(page);
  await row(dialog, name).getByRole("button", { name: `Remove ${name}` }).click();
  await row(dialog, name).getByRole("button", { name: `Really remove? ${name}` }).click();
  await row(dialog, name).waitFor({ state: "detached" });
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "detached" });
}

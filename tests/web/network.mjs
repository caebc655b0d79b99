// A network is made on one node, shared, and joined on the other, all of it by dialogs; then a port is opened and reached.

import { check, go, plan, until } from "./stage.mjs";

/** Makes a network; yields its key string and a picture of its QR code. */
export async function mint(page) {
  await go(page, "Keys");
  await page.getByRole("button", { name: "New network" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("Name").fill(plan.probe);
  await dialog.getByRole("button", { name: "Make it" }).click();
  await page.getByRole("dialog", { name: `Share ${plan.probe}` }).waitFor();
  check((await dialog.getByRole("textbox").count()) === 0, "the secret is shown before it is asked for");
  await dialog.getByRole("button", { name: "Show the key" }).click();
  const key = await dialog.getByRole("textbox").inputValue();
  check(/^meshkey1[a-z0-9]+$/.test(key), "no key string");
  const picture = await dialog.getByRole("img", { name: "QR code of the key" }).screenshot();
  await dialog.getByRole("button", { name: "Done" }).click();
  await dialog.waitFor({ state: "detached" });
  check(!(await page.content()).includes(key), "the secret is still in the page");
  return { key, picture };
}

/** Joins by a picture of the QR code, after a mistyped key is refused. */
export async function join(page, { key, picture }) {
  await go(page, "Keys");
  await page.getByRole("button", { name: "Join with a key" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("Name").fill("Home");
  const field = dialog.getByLabel("Key", { exact: true });
  await field.fill(key.replace(/.$/, (last) => (last === "q" ? "p" : "q")));
  await dialog.getByRole("button", { name: "Join" }).click();
  await dialog.getByRole("alert").waitFor();
  await dialog.getByLabel("Choose a file or picture").setInputFiles({ name: "code.png", mimeType: "image/png", buffer: picture });
  await until("the code is read", async () => (await field.inputValue()) === key);
  await dialog.getByRole("button", { name: "Join" }).click();
  await dialog.waitFor({ state: "detached" });
  await page.getByRole("heading", { level: 2, name: "Home" }).waitFor();
}

/** Opens ports in the first key's dialog, one by the offer of what runs there. */
export async function openPort(page, port) {
  await go(page, "Keys");
  await page.getByRole("button", { name: /^Edit ports of/ }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByRole("button", { name: `tcp:${port}` }).click();
  await dialog.getByRole("cell", { name: "nginx" }).waitFor();
  await dialog.getByRole("button", { name: "Save" }).click();
  await dialog.waitFor({ state: "detached" });
  await page.getByRole("listitem").filter({ hasText: `tcp:${port}` }).filter({ hasText: "nginx" }).first().waitFor();
}

/** Closes a port by its row. */
export async function closePort(page, port) {
  await go(page, "Keys");
  await page.getByRole("button", { name: /^Edit ports of/ }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByRole("button", { name: `Remove ${port}` }).click();
  await dialog.getByRole("button", { name: "Save" }).click();
  await dialog.waitFor({ state: "detached" });
}

/** The peer's sheet: path, ping, and that Esc leads back. */
export async function pingPeer(page, name) {
  await go(page, "Network");
  await page.getByRole("link", { name, exact: true }).click();
  const sheet = page.getByRole("dialog", { name });
  await sheet.getByRole("button", { name: "Ping" }).click();
  await sheet.getByText(/of 5 pings answered by the peer itself/).waitFor();
  await sheet.getByText("now, since").first().waitFor();
  await page.keyboard.press("Escape");
  await sheet.waitFor({ state: "detached" });
  check(page.url().endsWith("#/network"), "the address still names the peer");
}

/** Deletes the first key: only after its name is typed. */
export async function remove(page, name) {
  await go(page, "Keys");
  await page.getByRole("button", { name: `More for ${name}` }).click();
  await page.getByRole("menuitem", { name: "Delete…" }).click();
  const dialog = page.getByRole("dialog");
  check(await dialog.getByRole("button", { name: "Delete and leave" }).isDisabled(), "deleted without the name");
  await dialog.getByRole("textbox").fill(name);
  await dialog.getByRole("button", { name: "Delete and leave" }).click();
  await page.getByRole("heading", { name: "No keys yet" }).waitFor();
}

// A drop is seen in the feed as it happens, explained by a click, and its port opened by one more.

import { check, go, until } from "./stage.mjs";

/** Opens the port that `caller` was refused at; `address` is the refusing node's. */
export async function reopen(page, caller, address) {
  await go(page, "Drops");
  check(!(await caller.fetches(address)), "the port is closed and answers");
  const drop = page.getByRole("button").filter({ hasText: "Port closed" }).filter({ hasText: `${address}:80` });
  await drop.first().click();
  const sheet = page.getByRole("dialog", { name: "Port closed" });
  await sheet.getByText("is dropped").waitFor();
  await sheet.getByText(/This adds tcp:80 to the open ports/).waitFor();
  await sheet.getByRole("button", { name: /^Open tcp:80 in / }).click();
  await sheet.getByText("passes").waitFor();
  await until("the port is open again", () => caller.fetches(address));
  await page.keyboard.press("Escape");
  await sheet.waitFor({ state: "detached" });
  await page.getByRole("button", { name: /Port closed/ }).first().waitFor();
}

/** A question about any packet. */
export async function ask(page, address) {
  await go(page, "Drops");
  await page.getByRole("button", { name: "Ask about a packet" }).click();
  const sheet = page.getByRole("dialog");
  await sheet.getByLabel("To", { exact: true }).fill(address);
  await sheet.getByLabel("Port", { exact: true }).fill("81");
  await sheet.getByRole("button", { name: "Ask", exact: true }).click();
  await sheet.getByText("is dropped").waitFor();
  await page.keyboard.press("Escape");
}

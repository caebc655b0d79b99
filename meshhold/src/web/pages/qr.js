// A key out of a file: a text that holds it, or a picture of its QR code.
//
// Owns how a picture becomes plain brightness; the daemon finds the code in it. Must not know forms.

import { api } from "./api.js";
import { t } from "./texts.js";

/** The API takes a byte a pixel, and no more of them. */
const MOST_PIXELS = 1_048_576;
const MOST_TEXT = 65_536;
/** Where a drawing names no size of its own. */
const DRAWING = 800;

/** The key string in a file. */
export async function keyFromFile(file) {
	if (file.type.startsWith("image/")) return keyIn(await textOfPicture(file));
	if (file.size > MOST_TEXT) throw new Error(t.add.fileTooBig);
	return keyIn(await file.text());
}

function keyIn(text) {
	const found = /meshkey1[a-z0-9]+/i.exec(text);
	if (!found) throw new Error(t.add.noKeyInFile);
	return found[0];
}

async function textOfPicture(file) {
	const { width, height, bytes } = brightness(await picture(file));
	return (await api.readQr(width, height, bytes)).text;
}

function picture(file) {
	const url = URL.createObjectURL(file);
	const image = new Image();
	return new Promise((resolve, reject) => {
		image.onload = () => resolve(image);
		image.onerror = () => reject(new Error(t.add.noPicture));
		image.src = url;
	}).finally(() => URL.revokeObjectURL(url));
}

function brightness(image) {
	const [naturalWidth, naturalHeight] = [image.naturalWidth || DRAWING, image.naturalHeight || DRAWING];
	const scale = Math.min(1, Math.sqrt(MOST_PIXELS / (naturalWidth * naturalHeight)));
	const [width, height] = [Math.floor(naturalWidth * scale), Math.floor(naturalHeight * scale)];
	const canvas = Object.assign(document.createElement("canvas"), { width, height });
	const context = canvas.getContext("2d", { willReadFrequently: true });
	context.fillStyle = "#fff";
	context.fillRect(0, 0, width, height);
	context.drawImage(image, 0, 0, width, height);
	const { data } = context.getImageData(0, 0, width, height);
	const bytes = new Uint8Array(width * height);
	bytes.forEach((_, at) => (bytes[at] = (data[4 * at] * 54 + data[4 * at + 1] * 183 + data[4 * at + 2] * 19) >> 8));
	return { width, height, bytes };
}

import com.pixelmed.validate.DicomSRValidator;

/** What pixelmed's DicomSRValidator prints for each file, after a line that names it; its stylesheets are read once. */
class PixelmedOfFiles {
    public static void main(String[] paths) throws Exception {
        System.setErr(System.out);  // what is said of a file stands under its name
        DicomSRValidator validator = new DicomSRValidator();
        for (String path : paths) {
            System.out.println("FILE " + path);
            try {
                System.out.print(validator.validate(path));
            } catch (Exception error) {
                error.printStackTrace();
            }
            System.out.println();
        }
    }
}

from ahm_env.images.source import class_order


def test_class_names_are_sorted() -> None:
    assert class_order({"nevus", "melanoma", "Keratosis"}) == ("Keratosis", "melanoma", "nevus")


def test_class_numbers_are_sorted_as_numbers() -> None:
    assert class_order({"10", "2", "0"}) == ("0", "2", "10")
    assert class_order({"10", "2", "0", "none"}) == ("0", "10", "2", "none")
